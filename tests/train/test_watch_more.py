from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.train.watch import read_curves


def steps(losses: list[float]) -> list[dict[str, Any]]:
    return [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]


def validations(losses: list[float]) -> list[dict[str, Any]]:
    return [{"step": 10 * place, "validation_loss": loss} for place, loss in enumerate(losses, start=1)]


def kinds(rows: list[dict[str, Any]]) -> list[str]:
    return [finding.kind for finding in read_curves(rows)]


@settings(deadline=None, max_examples=50)
@given(
    st.floats(1.0, 8.0),
    st.floats(0.3, 0.9),
    st.integers(12, 200),
    st.randoms(use_true_random=False),
)
def test_a_loss_that_falls_by_a_tenth_or_more_is_never_warned_of(
    start: float, end: float, count: int, random: Any
) -> None:
    losses = [start * end ** (step / count) * random.uniform(0.99, 1.01) for step in range(count)]
    flattening = [start * (end + (1 - end) * 0.3**place) for place in range(8)]
    assert kinds(steps(losses) + validations(flattening)) == []


@settings(deadline=None, max_examples=50)
@given(st.floats(0.5, 8.0), st.integers(10, 100), st.data())
def test_a_loss_that_is_no_number_is_named_with_its_first_step_and_nothing_else(
    start: float, count: int, data: st.DataObject
) -> None:
    losses = [start] * count
    places = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=5))
    for place in places:
        losses[place] = data.draw(st.sampled_from([math.nan, math.inf]))
    (found,) = read_curves(steps(losses) + validations([3.0, 2.0, 2.9, 3.0]))
    assert (found.kind, found.step) == ("not-a-number", min(places) + 1)


def test_training_and_validation_are_judged_apart() -> None:
    assert kinds(steps([2.0] * 40) + validations([3.0, 2.5, 2.7, 2.9])) == ["stagnation", "over-fitting"]
    assert kinds(steps([2.0] * 9) + validations([3.0, 2.5, 2.7, 2.9])) == ["over-fitting"]


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([2.0] * 20 + [2.99] * 20, "stagnation"),
        ([2.0] * 20 + [3.01] * 20, "divergence"),
        ([2.0] * 20 + [1.99] * 20, "stagnation"),
        ([2.0] * 20 + [1.97] * 20, None),
    ],
)
def test_the_thresholds_are_where_the_module_says(losses: list[float], found: str | None) -> None:
    assert kinds(steps(losses)) == ([found] if found else [])


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([3.0, 2.0, 2.03, 2.05], "over-fitting"),
        ([3.0, 2.0, 2.01, 2.03], None),  # within two per cent of the best
        ([3.0, 2.2, 2.0, 2.5], None),  # one bad validation is not a trend
        ([3.0, 2.5, 2.47], "still-learning"),
        ([3.0, 2.5, 2.48], None),
        ([3.0, 3.0, 3.0], None),
        ([3.0, 2.0], None),
    ],
)
def test_validation_needs_a_trend_and_not_one_point(losses: list[float], found: str | None) -> None:
    assert kinds(validations(losses)) == ([found] if found else [])


def test_no_metrics_say_nothing() -> None:
    assert read_curves([]) == []
