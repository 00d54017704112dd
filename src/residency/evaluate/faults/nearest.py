"""The training examples that are nearest to an answer, by BM25 (Robertson & Zaragoza 2009) as `bm25s` has it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from residency.evaluate.faults.cases import words
from residency.evaluate.faults.causes import spread
from residency.workspace import Dialogue

SHOWN = 3  # training examples beside an answer
CUT = 240  # characters of each text that is shown
INDEXED = 50_000  # training examples that are looked through, at even distances; an index of millions fills the memory
BEGINNING = 60  # words of an answer that are looked for; a loop would look for its own phrase alone
MISSING = "bm25s is not installed; `pip install residency[retrieve]`"


class Nearest:
    """An index over training examples, 50,000 at most."""

    def __init__(self, training: Sequence[Dialogue]) -> None:
        self.rows = spread(training, INDEXED)
        self._index = _index([words(f"{row.question} {row.answer}") for row in self.rows]) if self.rows else None
        looked = f"Looked through were {len(self.rows):,} of {len(training):,}"
        self.note = "" if len(self.rows) == len(training) else looked
        if self.rows and self._index is None:
            self.note = MISSING

    def to(self, question: str, answer: str, shown: int = SHOWN) -> list[tuple[Dialogue, float]]:
        """The nearest examples to a question with its answer, and their scores; none that shares no word."""
        asked = words(question) + words(answer)[:BEGINNING]
        if self._index is None or not asked:
            return []
        places, scores = self._index.retrieve([asked], k=min(shown, len(self.rows)), show_progress=False)
        found = zip(places[0].tolist(), scores[0].tolist(), strict=True)
        return [(self.rows[place], score) for place, score in found if score > 0]


def shortened(text: str, length: int = CUT) -> str:
    """A text on one line, its middle left out where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length * 2 // 3]} … {line[-length // 3 :]}"


def _index(texts: list[list[str]]) -> Any:
    try:
        import bm25s
    except ImportError:
        return None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells each index, wherever there is a root handler
    index = bm25s.BM25()
    index.index(texts, show_progress=False)
    return index
