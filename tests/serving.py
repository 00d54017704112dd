"""A small trained run, and a server of it in a thread, for the tests of serving."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import uvicorn

from residency import pipeline
from residency.recipe import Recipe
from residency.serve import pages, server
from residency.serve.app import create_app
from residency.serve.served import Service
from residency.serve.settings import Settings

LOOPBACK = Settings(port=0)


def train(model: Path, data: Path, folder: Path, **train: Any) -> Path:
    """A run of some steps."""
    recipe = Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(data), "question": "Description", "answer": "Doctor"},
            "model": {"base": str(model), "max_length": 256},
            "train": {"max_steps": 12, "examples_per_step": 8, "learning_rate": 0.01, **train},
            "evaluate": {"max_new_tokens": 12},
        }
    )
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder)
    return folder


@dataclass(frozen=True)
class Serving:
    """A server that listens."""

    address: str
    service: Service

    def client(self, **options: Any) -> openai.OpenAI:
        options = {"api_key": "none", "max_retries": 0} | options
        return openai.OpenAI(base_url=f"{self.address}/v1", **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return httpx2.post(f"{self.address}{path}", json=body, **{"timeout": 60, **options})

    def number(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = httpx2.get(f"{self.address}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


@contextmanager
def serving(service: Service, settings: Settings = LOOPBACK) -> Iterator[Serving]:
    """The service behind a real socket."""
    settings = replace(settings, port=0)
    sock = server.listen(settings)
    app = create_app(service, settings, [pages.of(service, settings)])
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="on")
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        until(lambda: web.started)
        yield Serving(server.address(sock), service)
    finally:
        web.should_exit = True
        thread.join(30)


def until(holds: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for something to hold."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come to hold"
        time.sleep(0.01)


@contextmanager
def slowly(service: Service, seconds: float = 0.05) -> Iterator[None]:
    """Inside this block a step of each model takes at least so long, and its answers end at the limit only."""
    cores: list[Any] = [one.engine.core for one in service.models.values()]
    turns = [core.turn for core in cores]

    def slow(turn: Callable[[Any], None]) -> Callable[[Any], None]:
        def slower(desk: Any) -> None:
            time.sleep(seconds)
            turn(desk)

        return slower

    for core, turn in zip(cores, turns, strict=True):
        core.turn = slow(turn)
    try:
        yield
    finally:
        for core in cores:
            del core.turn
