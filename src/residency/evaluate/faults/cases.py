"""What the rules look at: an answer beside its question and reference, and what is known of the whole run."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, lower-cased, in order; punctuation and white space are none."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


@dataclass(frozen=True)
class Weights:
    """How much each word tells: by how few of a run's training examples have it (inverse document frequency)."""

    examples: int
    seen: Mapping[str, int]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Weights:
        """Weights from texts, in how many of which each word stands."""
        seen: Counter[str] = Counter()
        total = 0
        for text in texts:
            seen.update(stems(text))
            total += 1
        return cls(total, seen)

    def share(self, wanted: str, given: str) -> float:
        """The share of `wanted`'s words that `given` has, each once and by its weight; 1 where none has any weight."""
        asked, there = stems(wanted), stems(given)
        total = sum(self._weight(word) for word in asked)
        return sum(self._weight(word) for word in asked & there) / total if total > 0 else 1.0

    def _weight(self, word: str) -> float:
        return math.log((self.examples + 1) / (self.seen.get(word, 0) + 1))


def stems(text: str) -> set[str]:
    """The different words of a text, without the s of a plural or a genitive."""
    found = set()
    for word in words(text):
        bare = word.removesuffix("'s")
        found.add(bare[:-1] if len(bare) > 3 and bare.endswith("s") and not bare.endswith("ss") else bare)
    return found


@dataclass(frozen=True)
class Known:
    """What holds for every answer of a run.

    `boilerplate` are sentences of 2% or more of the training answers, `marks` pieces of the prompt's template,
    `language` the code of the one that most training answers are in, `shortest` and `longest` the words of training
    answers at the 5th and the 95th percentile.
    """

    boilerplate: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    language: str = ""
    shortest: float = 0.0
    longest: float = math.inf
    weights: Weights = field(default_factory=lambda: Weights(0, {}))


@dataclass(frozen=True)
class Case:
    """One answer and what it is judged by; `reference` is empty where a person's own answer is judged.

    `copied` is the share of its eight-word runs that stand in one training answer; see `copied.py`.
    """

    question: str
    text: str
    reference: str = ""
    stopped: bool = True
    copied: float = 0.0
    known: Known = field(default_factory=Known)
