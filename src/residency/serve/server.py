"""The server as a process: it listens, answers until it is told to stop, and lets running answers end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from residency.errors import UserError
from residency.serve.connection import Connection
from residency.serve.served import Service
from residency.serve.settings import Settings


def listen(settings: Settings) -> socket.socket:
    """A socket that is bound to the address of the settings.

    Raises:
        UserError: there is no such address here, or another program listens there.
    """
    host, port = settings.host.strip("[]"), settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host {host}: no address of this machine", "an address such as 127.0.0.1") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise UserError(
            f"--host {host} --port {port}: {error.strerror}",
            "an address and a port that are free",
            "--port 0 finds one",
        ) from None
    return sock


def address(sock: socket.socket) -> str:
    """Where clients find the server, such as http://127.0.0.1:8080."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def configured(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn's settings: HTTP alone, bounded connections, and no log of what is asked."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        limit_concurrency=settings.connections + 1,  # from which on it refuses
        log_level="error",  # not of each request that is no HTTP, by which a stranger could fill a disk
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(settings.drain)),
    )


def run(app: FastAPI, service: Service, settings: Settings, sock: socket.socket, ready: Callable[[], None]) -> int:
    """Answer until SIGINT or SIGTERM: then no new requests, and running ones get `settings.drain` seconds.

    A second Ctrl-C ends it at once. How many answers were cut off.
    """
    server = _Server(configured(app, settings), ready)
    try:
        with suppress(KeyboardInterrupt):
            server.run(sockets=[sock])
    finally:
        service.worker.stop()
    return sum(engine.cut for engine in service.worker.engines)


class _Server(uvicorn.Server):
    """Says when it is there."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; uvicorn would raise the signal once more at the end, in the midst of closing the event loop."""
        super().handle_exit(sig, frame)
        self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            self.ready()
