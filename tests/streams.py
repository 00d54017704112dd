"""A small server that streams as OpenAI does; a request takes the next of its scripted ways, or is answered well."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from servers import Answering, Listening, listening

KEY = "sk-very-secret-0123456789"
PIECES = ("Rest, ", "and drink ", "much water.")


class Server(Listening):
    """`script` holds ways to answer, used up one a request; `seen` what was asked with which key."""

    script: list[Callable[[Handler], None]]
    seen: list[tuple[str | None, dict[str, Any]]]
    usage: bool


class Handler(Answering):
    server: Server

    def do_POST(self) -> None:
        body = self.body()
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
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.send(json.dumps({"error": {"message": message}}), status, named)

    return way


@contextmanager
def serving() -> Iterator[Server]:
    with listening(Server, Handler) as opened:
        opened.script, opened.seen, opened.usage = [], [], True
        yield opened
