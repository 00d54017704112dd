"""Who is let in, before a request is looked at: plain ASGI, so that streams and disconnections go through untouched."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from residency.serve.metrics import Meter
from residency.serve.refused import Refused
from residency.serve.settings import Settings

OPEN = ("/healthz",)  # needs no token: it says nothing but that the server lives


class Counted:
    """Counts each request by its route, not its path, of which there may be any number."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self.app, self.meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            self.meter.request(getattr(scope.get("route"), "path", "other"), status)


class Door:
    """Refuses pages of other origins, those without the token, and bodies that are too large."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reason = self._foreign(headers) or self._stranger(scope["path"], headers) or self._large(headers)
        if reason is not None:
            await reason.response()(scope, receive, send)
            return
        await self.app(scope, self._limited(receive), send)

    def _foreign(self, headers: Headers) -> Refused | None:
        """A page of another origin may not even make this server work, though it could not read the answer."""
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is None or origin.partition("://")[2].lower() == host.lower():
            return None
        return Refused(403, f"Pages of {origin[:100]} may not ask this server.", "foreign_origin")

    def _stranger(self, path: str, headers: Headers) -> Refused | None:
        token = self.settings.token
        if token is None or path in OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
            return None
        challenge = {"WWW-Authenticate": "Bearer"}
        return Refused(
            401, "This server needs its token as `Authorization: Bearer ...`.", "invalid_api_key", None, challenge
        )

    def _large(self, headers: Headers) -> Refused | None:
        length = headers.get("content-length", "0")
        return self._too_large() if not length.isdecimal() or int(length) > self.settings.body_bytes else None

    def _limited(self, receive: Receive) -> Receive:
        """A body without a length is counted while it comes."""
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.settings.body_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Refused:
        most = f"{self.settings.body_bytes:,} bytes is the most that this server reads"
        return Refused(413, f"The request is too large: {most}.", "request_too_large", None, {"Connection": "close"})
