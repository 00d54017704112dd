"""A model as lm-eval asks it: tokens, windows and generation are lm-eval's own, likelihoods are ours.

Ours give the same numbers (`tests/evaluate/test_benchmarks.py` holds them against lm-eval's) in a fraction of the time:
batches by length, the output head on answers alone, and a context that several endings share gone through once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

from lm_eval.models.huggingface import HFLM

from residency.evaluate.answers.continuations import Likelihood, Pair, continuations, shares_context
from residency.evaluate.benchmarks.journal import Journal

Request = tuple[Any, list[int], list[int]]  # texts, and their tokens: a context and what follows it
WINDOWS = 64  # of long texts that are gone through at once
Tell = Callable[[int, int], None]


class BatchedLM(HFLM):  # type: ignore[misc]
    """A loaded model and its tokenizer behind lm-eval's interface."""

    def __init__(self, model: Any, tokenizer: Any, tokens_per_batch: int = 1024) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=WINDOWS)
        self.tokens_per_batch = tokens_per_batch
        self.tell: Tell = lambda done, total: None
        self.journal: Journal | None = None
        self.truncated = 0  # requests cut on the left since they are longer than the model's window
        self.shared = False  # whether contexts were gone through once
        self.stderr = sys.stderr

    def _loglikelihood_tokens(self, requests: Sequence[Request], *_: Any, **__: Any) -> list[Likelihood]:
        """Of each request; what the journal holds of an earlier, interrupted call is not computed again."""
        pairs = [self._cut(context, ending) for _, context, ending in requests]
        found = self.journal.begin(pairs) if self.journal else {}
        left = [place for place in range(len(pairs)) if place not in found]
        ask = [pairs[place] for place in left]
        self.shared = shares_context(self.model, ask) if ask else self.shared

        def keep(places: list[int], values: list[Likelihood]) -> None:
            new = {left[place]: value for place, value in zip(places, values, strict=True)}
            found.update(new)
            if self.journal:
                self.journal.keep(new)

        with redirect_stderr(self.stderr):  # lm-eval's own bars are kept off it, ours are not
            continuations(
                self.model,
                ask,
                keep,
                shared=self.shared,
                tokens_per_batch=self.tokens_per_batch,
                tell=self.tell,
            )
        return [found[place] for place in range(len(pairs))]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Of whole texts, which lm-eval cuts into windows; no journal is kept of them."""
        self.journal = None
        found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
        return found

    def _cut(self, context: list[int], ending: list[int]) -> Pair:
        """Both as lm-eval cuts them: from the left, to the model's window and the token after it."""
        surplus = len(context) + len(ending) - (self.max_length + 1)
        if surplus <= 0:
            return context, ending
        self.truncated += 1
        if surplus < len(context):
            return context[surplus:], ending
        whole = (context + ending)[surplus:]
        return whole[:1], whole[1:]
