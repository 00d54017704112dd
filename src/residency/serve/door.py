"""Who is let in, before a request is looked at: plain ASGI, so that streams and disconnections go through untouched."""

from __future__ import annotations

import asyncio
import hashlib
import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from residency.serve.metrics import Meter
from residency.serve.refused import Refused
from residency.serve.settings import Settings

SIGN_IN = "/sign-in"
OPEN = ("/healthz", SIGN_IN)  # need no token: they say nothing but that the server lives
FILES = "/pages/"  # nor do the files under this, which are the same for every run
COOKIE = "residency"


def cookie(token: str) -> str:
    """What a browser holds once it has sent the token: the token can't be told from it."""
    return hmac.new(token.encode(), b"the pages of residency serve", hashlib.sha256).hexdigest()


class Counted:
    """Counts each request by its route, not its path, of which there may be any number.

    It stands before all others, so that what is true of every answer is said here.
    """

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
                MutableHeaders(scope=message).setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            self.meter.request(getattr(scope.get("route"), "path", "other"), status)


class Door:
    """Refuses pages of other origins, those without the token, and bodies that are too large or too slow."""

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
            await _answer(reason, scope, headers)(scope, receive, send)
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
        if token is None or path in OPEN or path.startswith(FILES):
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
            return None
        held = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if hmac.compare_digest(held.encode(), cookie(token).encode()):
            return None
        challenge = {"WWW-Authenticate": "Bearer"}
        return Refused(
            401, "This server needs its token as `Authorization: Bearer ...`.", "invalid_api_key", None, challenge
        )

    def _large(self, headers: Headers) -> Refused | None:
        length = headers.get("content-length", "0")
        return self._too_large() if not length.isdecimal() or int(length) > self.settings.body_bytes else None

    def _limited(self, receive: Receive) -> Receive:
        """A body is counted while it comes, and has to come in time; after it, a client may wait as it likes."""
        loop = asyncio.get_running_loop()
        seen, end, whole = 0, loop.time() + self.settings.body_seconds, False

        async def limited() -> Message:
            nonlocal seen, whole
            try:
                message = await (receive() if whole else asyncio.wait_for(receive(), max(end - loop.time(), 0)))
            except asyncio.TimeoutError:
                raise self._too_slow() from None
            whole = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self.settings.body_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_slow(self) -> Refused:
        most = f"The body took more than {self.settings.body_seconds:g} seconds to come."
        return Refused(408, most, "timeout", None, {"Connection": "close"})

    def _too_large(self) -> Refused:
        most = f"{self.settings.body_bytes:,} bytes is the most that this server reads"
        return Refused(413, f"The request is too large: {most}.", "request_too_large", None, {"Connection": "close"})


def _answer(reason: Refused, scope: Scope, headers: Headers) -> Response:
    """What a refused request gets: an error, but a person who opens a page the one that asks for the token."""
    if reason.status == 401 and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
        return RedirectResponse(SIGN_IN, 303)
    return reason.response()
