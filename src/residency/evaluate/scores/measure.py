"""Numbers over answers with their bootstrap intervals, and what holds of their differences where many are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from residency.evaluate.scores.score import Interval, resample

SWAPS = 9999  # the least p-value is then 1 in 10,000, which Holm's correction over 30 metrics leaves under 0.05
LEVEL = 0.05
ROWS_AT_ONCE = 1000
RESTATED = {"perplexity": "answer_nll", "perplexity_byte": "answer_nll_byte"}  # one comparison in two forms

Number = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A number over answers that follows from sums over them.

    `parts` [answers, sums] is what each answer adds; `number` makes of sums [rows, sums] the number of each row [rows].
    A mean follows from the sums of values and of weights, BLEU from those of n-gram counts: so each of them can be
    had over any resample of the answers, and with any answers of two systems swapped.
    """

    parts: np.ndarray
    number: Number

    @property
    def value(self) -> float:
        """The number over all answers; nan where there is none, as for a mean without any weight."""
        return float(self.number(self.parts.sum(axis=0, keepdims=True))[0])

    def over(self, times: np.ndarray) -> np.ndarray:
        """The number over each of several resamples [resamples]; `times` [resamples, answers] has each so often."""
        return self.number(times @ self.parts)


@dataclass(frozen=True)
class Significance:
    """Whether a difference may be chance: its p-value alone, by Holm's correction, and whether that is under 0.05."""

    p: float
    holm: float
    stands: bool


def ratio(sums: np.ndarray) -> np.ndarray:
    """The first sum over the second [rows]; nan where the second is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = sums[:, 0] / sums[:, 1]
    return found


def mean(values: Sequence[float], weights: Sequence[float] | None = None) -> Measure:
    """The mean of a value an answer, by weight where weights are given."""
    value = np.array(values, dtype=float)
    weight = np.ones(len(value)) if weights is None else np.array(weights, dtype=float)
    return Measure(np.stack([value * weight, weight], axis=1), ratio)


def intervals(measures: Mapping[str, Measure], times: int) -> dict[str, Interval]:
    """Each number with its 95% percentile bootstrap interval over `times` resamples of the answers (Efron 1979)."""
    return {
        name: _interval(own.value, own.over(_drawn(len(own.parts), times)))
        for name, own in measures.items()
        if np.isfinite(own.value)
    }


def differences(one: Mapping[str, Measure], other: Mapping[str, Measure], times: int) -> dict[str, Interval]:
    """Each number of one system minus the other's, with its 95% paired bootstrap interval.

    Both have answered the same questions, and one draw serves all metrics. A metric that one of them lacks is left out.
    """
    return {
        name: _interval(own.value - theirs.value, own.over(drawn) - theirs.over(drawn))
        for name, (own, theirs) in paired(one, other).items()
        for drawn in (_drawn(len(own.parts), times),)
    }


def significance(
    one: Mapping[str, Measure], other: Mapping[str, Measure], swaps: int = SWAPS
) -> dict[str, Significance]:
    """What a swap test says of each difference between two systems, alone and among all of them by Holm's correction.

    A perplexity is its NLL in another form: it takes that one's p-value and is not counted as a further comparison.
    """
    pairs = paired(one, other)
    alone = {name: p_value(*pair, swaps) for name, pair in pairs.items() if RESTATED.get(name) not in pairs}
    among = holm(alone)
    found = {name: Significance(p, among[name], among[name] < LEVEL) for name, p in alone.items()}
    return {name: found[name if name in found else RESTATED[name]] for name in pairs}


def p_value(one: Measure, other: Measure, swaps: int = SWAPS) -> float:
    """Two-sided p-value of a difference by the paired randomisation test (Fisher 1935; Noreen 1989).

    If the systems were alike, which of them gave which answer to a question would be chance: so the answers to each
    question are swapped or not by the toss of a coin, and counted is how often the difference is then as large as the
    one seen. For a mean this is the sign-flip test. It holds for few questions too, where p-values of a bootstrap are
    too small, and for numbers such as BLEU, which no t-test is for.
    """
    seen = abs(one.value - other.value) * (1 - 1e-9)  # what differs by rounding alone is as large
    generator = np.random.default_rng(0)
    smaller = 0
    for start in range(0, swaps, ROWS_AT_ONCE):
        rows = min(ROWS_AT_ONCE, swaps - start)
        swapped = generator.integers(0, 2, size=(rows, len(one.parts))).astype(float)
        first = one.number((1 - swapped) @ one.parts + swapped @ other.parts)
        second = other.number(swapped @ one.parts + (1 - swapped) @ other.parts)
        smaller += int((np.abs(first - second) < seen).sum())
    return (1 + swaps - smaller) / (1 + swaps)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values that hold among all that were compared: Holm's step-down correction (Holm 1979)."""
    order = sorted(p_values, key=lambda name: p_values[name])
    found: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p_values[name]))
        found[name] = largest
    return {name: found[name] for name in p_values}


def paired(one: Mapping[str, Measure], other: Mapping[str, Measure]) -> dict[str, tuple[Measure, Measure]]:
    """The measures that two systems both have a number of."""
    found = {name: (own, other[name]) for name, own in one.items() if name in other}
    return {name: pair for name, pair in found.items() if all(np.isfinite(own.value) for own in pair)}


@lru_cache(maxsize=4)
def _drawn(total: int, times: int) -> np.ndarray:
    """How often each answer is drawn in each bootstrap resample [times, total]."""
    return np.stack([np.bincount(row, minlength=total) for row in resample(total, times)]).astype(float)


def _interval(value: float, numbers: np.ndarray) -> Interval:
    """Resamples that have no number, as those of empty answers alone, are left out."""
    low, high = np.nanpercentile(numbers, [2.5, 97.5])
    return Interval(value, float(low), float(high))
