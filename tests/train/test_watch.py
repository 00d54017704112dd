from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from residency.train.watch import read_curves


def curves(losses: Sequence[float], validations: Sequence[float] = ()) -> list[dict[str, float]]:
    rows = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    return rows + [{"step": 10 * place, "validation_loss": loss} for place, loss in enumerate(validations, 1)]


FALLING = [4 - 0.05 * step for step in range(40)]
NOISY = [4 - 0.05 * step + 0.1 * (-1) ** step for step in range(40)]


@pytest.mark.parametrize(
    ("losses", "validations", "kind", "step"),
    [
        ([2.0, math.nan, 2.0], [], "not-a-number", 2),
        ([2.0] * 10 + [9.0] * 30, [], "divergence", 11),
        ([2.0] * 40, [], "stagnation", 40),
        (FALLING, [3.0, 2.5, 2.6, 2.7], "over-fitting", 20),
        (FALLING, [3.0, 2.8, 2.6], "still-learning", 30),
    ],
)
def test_each_rule_fires_on_its_curve(losses: list[float], validations: list[float], kind: str, step: int) -> None:
    (found,) = read_curves(curves(losses, validations))
    assert (found.kind, found.step) == (kind, step)
    assert found.advice.endswith(".")


@pytest.mark.parametrize("losses", [FALLING, NOISY, FALLING[:5]])
@pytest.mark.parametrize("validations", [[], [3.0, 2.51, 2.5, 2.5], [3.0, 2.5, 2.505], [3.0]])
def test_a_good_curve_gives_no_warning(losses: list[float], validations: list[float]) -> None:
    assert read_curves(curves(losses, validations)) == []
