"""A small server that streams as OpenAI does; a request takes the next of its scripted ways, or is answered well."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-very-secret-0123456789"
PIECES = ("Rest, ", "and drink ", "much water.")


class Server(ThreadingHTTPServer):
    """`script` holds ways to answer, used up one a request; `seen` what was asked with which key."""

    daemon_threads = True
    script: list[Callable[[Handler], None]]
    seen: list[tuple[str | None, dict[str, Any]]]
    usage: bool

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.headers["Authorization"], body))
        way = self.server.script.pop(0) if self.server.script else well
        way(self)

    def begin(self, kind: str = "text/event-stream") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def event(self, delta: dict[str, Any], reason: str | None = None) -> None:
        self.line(json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}))

    def line(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


def well(handler: Handler, reason: str = "stop", pause: float = 0.0) -> None:
    """A whole answer, in pieces."""
    handler.begin()
    handler.wfile.write(b": a comment, as some servers send to keep a connection alive\n\n")
    handler.event({"role": "assistant", "content": ""})
    for number, piece in enumerate(PIECES):
        time.sleep(pause if number else 0.0)
        handler.event({"content": piece})
    handler.event({}, reason)
    if handler.server.usage:
        handler.line(json.dumps({"choices": [], "usage": {"completion_tokens": 7}}))
    handler.line("[DONE]")


def slowly(handler: Handler) -> None:
    well(handler, pause=0.1)


def at_the_limit(handler: Handler) -> None:
    well(handler, "length")


def broken(handler: Handler) -> None:
    """The connection ends in the middle of an answer."""
    handler.begin()
    handler.event({"content": PIECES[0]})


def failing(handler: Handler) -> None:
    """An error in the middle of a stream."""
    handler.begin()
    handler.event({"content": PIECES[0]})
    handler.line(json.dumps({"error": {"message": "out of memory"}}))


def at_once(handler: Handler) -> None:
    """A server that does not stream."""
    handler.begin("application/json")
    message = {"role": "assistant", "content": "".join(PIECES)}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 7}}
    handler.wfile.write(json.dumps(body).encode())


def refusing(status: int, message: str, **headers: str) -> Callable[[Handler], None]:
    def way(handler: Handler) -> None:
        body = json.dumps({"error": {"message": message}}).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return way


@contextmanager
def serving() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as opened:
        opened.script, opened.seen, opened.usage = [], [], True
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()
