"""A connection that has to say what it wants in time: uvicorn itself waits for ever for the head of a request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

SLOWEST_HEAD = 20.0  # seconds from the connection, or from the last answer, to the end of a request's headers


class Connection(H11Protocol):
    """uvicorn's HTTP, with a bound on the time in which no request is under way, however many bytes trickle in."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """It says something."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """It has its answer; the next request may have come already."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has left."""
        super().connection_lost(exc)
        self._stop()

    @property
    def _idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        """Count the time where nothing is under way; bytes that are no whole head do not start it anew."""
        if not self._idle:
            self._stop()
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(SLOWEST_HEAD, self._end)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self) -> None:
        self._late = None
        if self._idle:
            self.transport.close()
