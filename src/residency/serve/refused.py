"""What is wrong with a request, in the form that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse


class Refused(Exception):
    """A request that gets an error: its status, and the four fields of OpenAI's error objects."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status, self.message = status, " ".join(message.split())  # a field's name may hold line breaks
        self.code, self.param, self.headers = code, param, headers or {}
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error object with its status."""
        return JSONResponse(self.body(), self.status, self.headers)


def wrong(message: str, param: str | None = None, code: str | None = None) -> Refused:
    """A request that asks for what can't be given as it stands: 400."""
    return Refused(400, message, code, param)


def broken() -> Refused:
    """A fault of ours: 500. What it was stands in the log and not in the answer."""
    return Refused(500, "The server failed at this answer; its log says more.", "internal_error")


async def refused(_: Request, error: Exception) -> JSONResponse:
    """The handler for `Refused`."""
    assert isinstance(error, Refused)
    return error.response()


async def http_error(request: Request, error: Exception) -> JSONResponse:
    """The handler for what the routing refuses: no such path, or another method."""
    status = getattr(error, "status_code", 500)
    detail = getattr(error, "detail", "")
    message = {404: f"There is nothing at {request.url.path}.", 405: f"{request.url.path} has no {request.method}."}
    headers = getattr(error, "headers", None)
    return Refused(status, message.get(status, str(detail)), headers=dict(headers or {})).response()


async def fault(_: Request, __: Exception) -> JSONResponse:
    """The handler for everything else."""
    return broken().response()
