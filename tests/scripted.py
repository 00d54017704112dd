"""The pages with a scripted model behind them, served on a free port; and a browser to look at them with."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from residency.serve import pages
from residency.serve.door import Door
from residency.serve.refused import Refused, refused
from residency.serve.settings import Settings
from residency.workspace import Run

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
Way = Callable[[], Response]


def says(*pieces: str, pause: float = 0.0, reason: str | None = "stop", **residency: Any) -> Way:
    """A way to answer: these pieces of text, as they are made; without a reason the connection breaks off."""

    async def stream() -> AsyncIterator[str]:
        for piece in pieces:
            yield _event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            await asyncio.sleep(pause)
        if reason is None:
            return
        end: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        yield _event({**end, "residency": residency} if residency else end)
        yield _event({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": len(pieces)}})
        yield "data: [DONE]\n\n"

    return lambda: StreamingResponse(stream(), media_type="text/event-stream")


def refuses(status: int, message: str, **headers: str) -> Way:
    """A way to answer: an error."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: JSONResponse({"error": {"message": message}}, status, named)


@dataclass
class Scripted:
    """`script` holds ways to answer, used up one a request; `seen` what was asked."""

    address: str = ""
    script: deque[Way] = field(default_factory=deque)
    seen: list[dict[str, Any]] = field(default_factory=list)
    models: tuple[str, ...] = ("tuned", "base")

    def app(self, run: Run, token: str | None = None) -> FastAPI:
        app = FastAPI()
        app.add_middleware(Door, settings=Settings(token=token))

        @app.get("/v1/models")
        def models() -> dict[str, Any]:
            ids = {"tuned": "clinic", "base": "base"}
            return {"data": [{"id": ids[role], "residency": {"role": role}} for role in self.models]}

        @app.post("/v1/chat/completions")
        async def completions(request: Request) -> Response:
            body = await request.json()
            self.seen.append(body)
            way = self.script.popleft() if self.script else says(f"{body['model']} ", "says ", "rest.")
            return way()

        async def live(question: str, request: Request) -> Mapping[str, str]:
            return {"tuned": f"Tuned on {question}", "base": f"Base on {question}"}

        app.include_router(pages.router(run, live if len(self.models) > 1 else None, token))
        app.add_exception_handler(Refused, refused)
        return app


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of an app that is served in a thread."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def browsing() -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the pages are tried by playwright")
    with playwright.sync_playwright() as started:
        path = chromium(started.chromium.executable_path)
        if path is None:
            pytest.skip("no Chromium on this machine: `apt-get install chromium` or `playwright install chromium`")
        try:
            opened = started.chromium.launch(executable_path=path, args=FLAGS)
        except playwright.Error as error:
            pytest.skip(f"{path} does not start: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


def chromium(own: str) -> str | None:
    """The path of a Chromium: the system's, or else playwright's `own`; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if (path := shutil.which(name))), None)
    return found or (own if Path(own).exists() else None)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
