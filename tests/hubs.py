"""A hub of one model or data set, in a thread: as much of Hugging Face's as a download meets. It fails on order."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers import Answering, Listening, listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUNG = 60.0  # seconds that a request hangs, unless its client goes first
Way = Callable[["Handler"], None]


class Server(Listening):
    """`faults` maps the end of a path to ways to fail, used up one a request; `seen` holds what was asked for."""

    folder: Path
    repo: str
    faults: dict[str, list[Way]]
    seen: list[str]
    over: bool

    @property
    def home(self) -> str:
        return self.address.removesuffix("/v1")


class Handler(Answering):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.seen.append(f"{self.command} {path}")
        for end, ways in self.server.faults.items():
            if path.endswith(end) and ways and self.command == "GET":
                return ways.pop(0)(self)
        repo = self.server.repo
        if path.startswith(f"/api/models/{repo}") or path.startswith(f"/api/datasets/{repo}"):
            return self.about(path)
        _, _, name = path.partition("/resolve/")
        file = self.server.folder / name.partition("/")[2]
        if f"/{repo}/resolve/" in path and file.is_file():
            return self.file(file)
        return self.json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})

    def about(self, path: str) -> None:
        files = [file for file in sorted(self.server.folder.iterdir()) if file.is_file()]
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _etag(file)} for file in files
            ]
            return self.json(tree if path.endswith(("/tree/main", f"/tree/{COMMIT}")) else [])
        siblings = [{"rfilename": file.name} for file in files]
        return self.json({"id": self.server.repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})

    def json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.begin(status, len(body), {"Content-Type": "application/json", "X-Repo-Commit": COMMIT, **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, file: Path, share: float = 1.0) -> None:
        """A file, or its first part, after which the connection ends."""
        data = file.read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        rest = data[start:]
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.begin(206 if start else 200, len(rest), headers)
        if self.command != "HEAD":
            self.wfile.write(rest[: int(share * len(rest))])
            self.close_connection = share < 1

    def begin(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def hangs(handler: Handler) -> None:
    """Nothing comes."""
    end = time.monotonic() + HUNG
    while time.monotonic() < end and not handler.server.over:
        time.sleep(0.02)
    handler.close_connection = True


def half(handler: Handler) -> None:
    """Half of the file, and then the connection is gone."""
    path = handler.path.partition("?")[0]
    handler.file(handler.server.folder / path.rpartition("/")[2], share=0.5)


def fails(status: int) -> Way:
    """An error of the hub's own."""

    def way(handler: Handler) -> None:
        handler.json({"error": "the hub is not well"}, status)

    return way


@contextmanager
def hub(folder: Path, repo: str = "someone/tiny") -> Iterator[Server]:
    """The files of a folder as a repository, until the block ends."""
    with listening(Server, Handler) as opened:
        opened.folder, opened.repo, opened.faults, opened.seen, opened.over = folder, repo, {}, [], False
        try:
            yield opened
        finally:
            opened.over = True


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
