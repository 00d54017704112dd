"""What an answer is worth beside its reference, and intervals for the means of such scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

LOOP_LONGEST = 60  # words of the phrase that repeats
LOOP_TIMES = 3
LOOP_CUT = 2.5  # times, where the text ends within the third
LOOP_WORDS = 12  # words that the repeats cover together, at least

_WORD = re.compile(r"\S+")
_ITEM = re.compile(r"(?m)^[ \t]*\d{1,3}[.)](?=\s)")  # the number of a list's item
_HEALTH = re.compile(
    r"\b(health|medical|medicine|doctor|symptom|illness|patient|clinic|treatment|physician|diagnos\w*)\w*\b", re.I
)
_STEER = re.compile(
    r"\b(can(?:no|['’])t|can only|not able|unable|outside|instead|rather|not something i"
    r"|i(?:['’]m| am) (?:here|a doctor)|help (?:you )?with|ask me)\b",
    re.I,
)


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def loops(text: str) -> bool:
    """Whether the text is caught in a loop: a phrase of 1 to 60 words, three times running, over 12 words or more.

    Where the text ends in it, half of the third time is enough: the limit on an answer's length cuts it there, and a
    phrase of 60 words never comes three whole times in 200 tokens. Compared are words as they stand between white
    space, lower-cased; the numbers of a list's items are none, since a loop may count on.
    """
    words = [word.lower() for word in _WORD.findall(_ITEM.sub(" ", text))]
    for period in range(1, min(LOOP_LONGEST, int(len(words) / LOOP_CUT)) + 1):
        run = 0
        for place in range(period, len(words)):
            run = run + 1 if words[place] == words[place - period] else 0
            times = LOOP_CUT if place == len(words) - 1 else LOOP_TIMES
            if run + period >= max(times * period, LOOP_WORDS):
                return True
    return False


def repeated(text: str, size: int = 4) -> float:
    """The share of a text's runs of four words that stood in it before (seq-rep-4, Welleck et al. 2020, 1908.04319).

    People's answers have next to none. It grows long before an answer is caught in a loop.
    """
    words = [word.lower() for word in _WORD.findall(text)]
    runs = [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def steered_back(text: str) -> bool:
    """Whether an answer to an off-topic question turns to health: it names the field and declines or offers help."""
    return bool(_HEALTH.search(text) and _STEER.search(text))


def overlap(answer: str, reference: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L F1 (stemmed), sentence BLEU and chrF of an answer against its reference, each 0 to 100."""
    import sacrebleu

    rouge = _rouge().score(reference, answer)
    return {
        "rouge_1": 100 * rouge["rouge1"].fmeasure,
        "rouge_2": 100 * rouge["rouge2"].fmeasure,
        "rouge_l": 100 * rouge["rougeL"].fmeasure,
        "bleu": sacrebleu.sentence_bleu(answer, [reference]).score,
        "chrf": sacrebleu.sentence_chrf(answer, [reference]).score,
    }


@lru_cache(maxsize=1)
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def resample(total: int, times: int, seed: int = 0) -> np.ndarray:
    """Bootstrap resamples of `total` questions: indices [times, total]. One draw serves every metric and system."""
    return np.random.default_rng(seed).integers(0, total, size=(times, total))


def interval(values: Sequence[float], draws: np.ndarray, weights: Sequence[float] | None = None) -> Interval:
    """The weighted mean of a score over questions, with its 95% percentile bootstrap interval (Efron 1979)."""
    value, weight = np.array(values, dtype=float), _weights(values, weights)
    means = (value * weight)[draws].sum(axis=1) / weight[draws].sum(axis=1)
    return _interval(float((value * weight).sum() / weight.sum()), means)


def difference(
    one: Sequence[float], other: Sequence[float], draws: np.ndarray, weights: Sequence[float] | None = None
) -> Interval:
    """The mean of `one` minus `other` over the same questions, with its 95% paired bootstrap interval."""
    return interval([a - b for a, b in zip(one, other, strict=True)], draws, weights)


def _weights(values: Sequence[float], weights: Sequence[float] | None) -> np.ndarray:
    return np.ones(len(values)) if weights is None else np.array(weights, dtype=float)


def _interval(mean: float, means: np.ndarray) -> Interval:
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean, float(low), float(high))
