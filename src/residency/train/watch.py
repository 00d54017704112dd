"""The curves, read for the user: each rule has a threshold, a step and a sentence of advice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OVERFIT = 0.02  # the last validation loss is this share above the best, and the best is not among the last two
FLAT = 0.01  # the loss fell by less than this share from the first to the last tenth of the steps
DIVERGED = 1.5  # the loss is this many times what it began at
STILL_FALLING = 0.01  # the last validation improved on the one before by more than this share
LEAST_STEPS = 10


@dataclass(frozen=True)
class Finding:
    """Something that the curves show: its kind, the step it shows at, and what to do."""

    kind: str
    step: int
    advice: str


def read_curves(metrics: Sequence[dict[str, Any]]) -> list[Finding]:
    """What the loss curves of a finished or running training warn of."""
    steps = [(row["step"], row["loss"]) for row in metrics if "loss" in row]
    validations = [(row["step"], row["validation_loss"]) for row in metrics if "validation_loss" in row]
    broken = next((step for step, loss in steps if not math.isfinite(loss)), None)
    if broken is not None:
        return [
            Finding("not-a-number", broken, "The loss is no number: lower the learning rate, or use precision fp32.")
        ]
    return [finding for rule in (_training(steps), _validation(validations)) for finding in rule]


def _training(steps: list[tuple[int, float]]) -> list[Finding]:
    if len(steps) < LEAST_STEPS:
        return []
    tenth = max(len(steps) // 10, 3)
    losses = [loss for _, loss in steps]
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    if last > DIVERGED * first:
        worst = next(step for step, loss in steps if loss > DIVERGED * first)
        return [Finding("divergence", worst, "The loss rises: divide the learning rate by 3, or lengthen the warm-up.")]
    if last > (1 - FLAT) * first:
        return [Finding("stagnation", steps[-1][0], "The loss hardly moves: multiply the learning rate by 3.")]
    return []


def _validation(points: list[tuple[int, float]]) -> list[Finding]:
    if len(points) < 3:
        return []
    best_step, best = min(points, key=lambda point: point[1])
    last_step, last = points[-1]
    if last > (1 + OVERFIT) * best and best_step not in (last_step, points[-2][0]):
        return [
            Finding("over-fitting", best_step, "Validation has risen since this step: use fewer epochs, or more data.")
        ]
    if last == best and points[-2][1] > (1 + STILL_FALLING) * last:
        return [Finding("still-learning", last_step, "Validation was still falling at the end: more epochs would pay.")]
    return []
