"""Stands in for vLLM's AsyncLLM where vLLM is not installed: the part of it that is used here, on a small model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from residency.decoding import tried
from residency.decoding.batch import Asked, Batch
from residency.decoding.chosen import Chosen
from residency.serve.engine import Job
from residency.serve.vllm_core import ByVllm


@dataclass(frozen=True)
class Part:
    """New tokens of an answer; the one that ends it is among them."""

    token_ids: Sequence[int]


@dataclass(frozen=True)
class Output:
    """What `generate` gives again and again."""

    outputs: list[Part]


@dataclass
class StandIn:
    """Answers as `decoding.batch` does. `together` tokens come at once, `seconds` after each other.

    `left` are the requests whose generator was left before its end, which vLLM takes for a cancellation.
    """

    model: Chosen
    together: int = 1
    seconds: float = 0.0
    errored: bool = False
    ended: bool = False
    left: list[str] = field(default_factory=list)
    dead_error: Exception = field(default_factory=lambda: RuntimeError("its process has ended"))

    async def generate(self, prompt: dict[str, list[int]], params: Job, request_id: str) -> AsyncIterator[Output]:
        over = False
        try:
            tokens: list[int] = []
            async for token, over in self._tokens(Asked(prompt["prompt_token_ids"], params.limit, params.choosing)):
                tokens.append(token)
                if over or len(tokens) == self.together:
                    yield Output([Part(tokens)])
                    tokens = []
        except (asyncio.CancelledError, GeneratorExit):
            if not over:
                self.left.append(request_id)
            raise

    async def _tokens(self, asked: Asked) -> AsyncIterator[tuple[int, bool]]:
        model, stops = self.model, self.model.prompt.stop_ids
        batch = Batch(tried.body(model.model, list(range(20))), rows=1, columns=model.window, stops=stops)
        row = None
        while row is None or not row.ended:
            await asyncio.sleep(self.seconds)
            if self.errored:
                raise self.dead_error
            with batch.model.ready():
                row = (batch.enter([asked]) if row is None else batch.step())[0]
            yield stops[0] if row.ended == "stop" else row.ids[-1], bool(row.ended)

    def shutdown(self) -> None:
        self.ended = True


def core(model: Chosen, rows: int = 2, **options: Any) -> ByVllm:
    """The core of an engine, as it is on vLLM itself."""
    return ByVllm(StandIn(model, **options), rows, model.prompt.stop_ids, lambda job, _: job)
