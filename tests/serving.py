"""A small trained run, and a server of it in a thread, for the tests of serving."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import torch
import uvicorn
from fastapi import APIRouter

from residency.models import load_base, load_tokenizer
from residency.recipe import Recipe
from residency.serve import server
from residency.serve.app import create_app
from residency.serve.served import Service
from residency.serve.settings import Settings
from residency.workspace import Run

LOOPBACK = Settings(port=0)


def made(base: Path, folder: Path, **model: Any) -> Run:
    """A run as training leaves it, in no time: the base with noise on its weights, which says letters and no bytes."""
    recipe = Recipe.parse(
        {
            "name": "small",
            "data": {"source": "clinic"},
            "model": {"base": str(base), "max_length": 256, **model},
            "evaluate": {"max_new_tokens": 12},
        }
    )
    run = Run.create(folder, recipe)
    tuned, tokenizer = load_base(recipe.model), load_tokenizer(recipe.model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
        tuned.get_input_embeddings().weight[[not (t.isascii() and t.isprintable()) for t in texts]] = 0
    tuned.save_pretrained(run.folder / "model")
    tokenizer.save_pretrained(run.folder / "model")
    run.write_json("model/generation_config.json", {"repetition_penalty": 1.2})  # as an evaluation may choose
    return run


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
def serving(service: Service, settings: Settings = LOOPBACK, routers: Sequence[APIRouter] = ()) -> Iterator[Serving]:
    """The service behind a real socket."""
    settings = replace(settings, port=0)
    sock = server.listen(settings)
    web = uvicorn.Server(server.configured(create_app(service, settings, routers), settings))
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
