"""The training examples that are nearest to an answer, by BM25 (Robertson & Zaragoza 2009) as `bm25s` has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from residency.evaluate.faults.cases import words
from residency.workspace import Dialogue

SHOWN = 3  # training examples beside an answer
CUT = 240  # characters of each text that is shown
BEGINNING = 60  # words of an answer that are looked for; a loop would look for its own phrase alone
MISSING = "bm25s is not installed; `pip install residency[faults]`"


@dataclass(frozen=True)
class Near:
    """A training example, and its score."""

    row: int
    question: str
    answer: str
    score: float


class Nearest:
    """An index over training examples. `ready` is False where the library is missing: then nothing is near."""

    def __init__(self, rows: Sequence[Dialogue]) -> None:
        self.rows = rows
        self._index = _index([words(f"{row.question} {row.answer}") for row in rows]) if rows else None

    @property
    def ready(self) -> bool:
        """Whether there is an index to ask."""
        return self._index is not None

    def to(self, question: str, answer: str, shown: int = SHOWN) -> list[Near]:
        """The nearest examples to a question with its answer, best first; those that share no word are left out."""
        asked = words(question) + words(answer)[:BEGINNING]
        if self._index is None or not asked:
            return []
        places, scores = self._index.retrieve([asked], k=min(shown, len(self.rows)), show_progress=False)
        found = zip(places[0].tolist(), scores[0].tolist(), strict=True)
        return [self._near(place, score) for place, score in found if score > 0]

    def _near(self, place: int, score: float) -> Near:
        row = self.rows[place]
        return Near(row.row, shortened(row.question), shortened(row.answer), round(score, 2))


def shortened(text: str, length: int = CUT) -> str:
    """A text on one line, its middle left out where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length * 2 // 3]} … {line[-length // 3 :]}"


def _index(texts: list[list[str]]) -> Any:
    try:
        import bm25s
    except ImportError:
        return None
    index = bm25s.BM25()
    index.index(texts, show_progress=False)
    return index
