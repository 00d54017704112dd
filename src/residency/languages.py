"""Answers in another language than most, by py3langid (Naive Bayes over byte n-grams, its model inside the package)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

LOOKED_AT = 2000  # rows that tell the main language, and that a finding is made on
BEGINNING = 200  # characters of an answer that its language is judged by
ENOUGH = 5  # words, or letters that aren't Latin; "Patent ductus arteriosus" is Latin and no fault
OTHER = 0.005  # probability of the main language under which an answer is in another one


@dataclass(frozen=True)
class Apart:
    """Tells the answers that are hardly in a language."""

    language: str

    @classmethod
    def of(cls, rows: pl.DataFrame) -> Apart:
        """From the language that most answers are in."""
        return cls(_main(_beginnings(spread(rows))))

    def __call__(self, rows: pl.DataFrame) -> pl.Series:
        """Which answers [rows], of all or some of the rows."""
        other = [enough and _scores(text).get(self.language, 0.0) < OTHER for text, enough in _beginnings(rows)]
        return pl.Series(other, dtype=pl.Boolean)


def other_languages(rows: pl.DataFrame) -> pl.Series:
    """Answers [rows] that are hardly in the language that most answers are in."""
    return Apart.of(rows)(rows)


def language_of(texts: Sequence[str], default: str = "") -> str:
    """The language that most of the texts are in, as a code such as "en"; `default` where all are too short to tell."""
    return _main(_beginnings(pl.DataFrame({"answer": list(texts)}, schema={"answer": pl.String})), default)


def hardly_in(text: str, language: str) -> bool:
    """Whether a text is hardly in a language; False of one that is too short to tell."""
    ((beginning, enough),) = _beginnings(pl.DataFrame({"answer": [text]}))
    return enough and _scores(beginning).get(language, 0.0) < OTHER


def spread(rows: pl.DataFrame) -> pl.DataFrame:
    """At most 2,000 rows at even distances over the table."""
    places = np.linspace(0, rows.height - 1, min(rows.height, LOOKED_AT)).astype(np.int64)
    return rows[places]


def _beginnings(rows: pl.DataFrame) -> list[tuple[str, bool]]:
    text = pl.col("answer").str.head(BEGINNING)
    words = text.str.count_matches(r"\p{L}[\p{L}\p{M}'’]+") >= ENOUGH
    script = text.str.count_matches(r"[\p{L}--\p{Latin}]") >= ENOUGH
    return rows.select(text, enough=words | script).rows()


def _main(texts: list[tuple[str, bool]], default: str = "en") -> str:
    scores = [_scores(text) for text, enough in texts if enough]
    languages = [max(found, key=found.__getitem__) for found in scores]
    return max(sorted(set(languages)), key=languages.count, default=default)


def _scores(text: str) -> dict[str, float]:
    return dict(_identifier().rank(text))


@lru_cache(maxsize=1)
def _identifier() -> Any:
    # Half a second to load: only where a language is asked for.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
