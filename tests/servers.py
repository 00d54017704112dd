"""A small HTTP server in a thread, for tests of what speaks over HTTP; what it answers is each test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar


class Listening(ThreadingHTTPServer):
    """On a free port of this machine."""

    daemon_threads = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Answering(BaseHTTPRequestHandler):
    """Quiet; bodies are JSON."""

    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return found

    def send(self, text: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


S = TypeVar("S", bound=Listening)


@contextmanager
def listening(server: type[S], handler: type[Answering]) -> Iterator[S]:
    with server(("127.0.0.1", 0), handler) as opened:
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield opened
        finally:
            opened.shutdown()
            thread.join()
