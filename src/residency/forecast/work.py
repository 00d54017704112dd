"""Floating-point operations of micro-batches of any shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from residency.forecast.trace import Batch, Trace

PROBES = (Batch(1, 64, 32), Batch(1, 128, 32), Batch(1, 64, 64))


@dataclass(frozen=True)
class Work:
    """Operations a token, a score of attention, and a learnt position (the output head)."""

    trained: tuple[float, float, float]
    passed: tuple[float, float, float]

    def training(self, batch: Batch) -> float:
        """Forward and backward."""
        return _apply(self.trained, batch)

    def forward(self, batch: Batch) -> float:
        """Forward alone."""
        return _apply(self.passed, batch)


def fit_work(traced: Callable[[Batch], Trace]) -> Work:
    """The work of any shape from traces of three shapes: a product's operations are a polynomial."""
    shapes = np.array([_terms(probe) for probe in PROBES], dtype=float)
    found = [traced(probe) for probe in PROBES]
    trained, passed = (
        np.linalg.solve(shapes, np.array([getattr(one, name) for one in found], dtype=float))
        for name in ("flops", "forward")
    )
    return Work(tuple(trained.tolist()), tuple(passed.tolist()))


def _terms(batch: Batch) -> tuple[float, float, float]:
    return float(batch.tokens), float(batch.scores), float(batch.learnt)


def _apply(each: tuple[float, float, float], batch: Batch) -> float:
    return sum(price * amount for price, amount in zip(each, _terms(batch), strict=True))
