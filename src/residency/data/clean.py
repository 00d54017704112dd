"""Cleaning as a list of named steps, each of which says how many rows it touched and shows some."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import polars as pl

from residency.errors import UserError
from residency.recipe import DataSection

SAMPLES = 3
BOTH = ("question", "answer", "rejected", "context", "system")

Sample = tuple[int, str, str]  # row, before, after


@dataclass(frozen=True)
class Cleaned:
    """What a step did: rows touched, and up to three of them as (row, before, after)."""

    step: str
    rows: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Touched:
    """What a step did to some of the rows: how many it touched, and up to three of each column."""

    step: str
    rows: int
    columns: tuple[tuple[Sample, ...], ...]

    def told(self) -> Cleaned:
        """The same for a report; of several columns the first ones' samples come first."""
        return Cleaned(self.step, self.rows, tuple(chain(*self.columns))[:SAMPLES])


@dataclass(frozen=True)
class Step:
    """A cleaning step: the columns it applies to, and what it does to their text."""

    columns: tuple[str, ...]
    apply: Callable[[pl.Expr, DataSection], pl.Expr]


def _unicode(text: pl.Expr, _: DataSection) -> pl.Expr:
    """Composed characters (NFC), so that the same word is the same tokens."""
    return text.str.normalize("NFC")


def _control(text: pl.Expr, _: DataSection) -> pl.Expr:
    """Without control and zero-width characters; tabs, line breaks and joiners (emoji need them) stay."""
    return text.str.replace_all(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufffd]", "")


def _html(text: pl.Expr, _: DataSection) -> pl.Expr:
    """Tags become blanks, line breaks for those that break lines; entities become their characters."""
    broken = text.str.replace_all(r"(?i)<(?:br|/p|/div|/li|/h[1-6]|/tr)\s*/?>", "\n")
    bare = broken.str.replace_all(r"(?is)<(?:script|style)\b.*?</(?:script|style)>|<!--.*?-->|</?[a-z][^<>]*>", " ")
    entities = bare.str.contains(r"&(?:[a-zA-Z]+|#\d+|#x[0-9a-fA-F]+);")
    return pl.when(entities).then(bare.map_elements(html.unescape, pl.String)).otherwise(bare)


def _links(text: pl.Expr, _: DataSection) -> pl.Expr:
    """Without web addresses; of a Markdown link the words stay."""
    words = text.str.replace_all(r"\[([^\]\[]*)\]\((?:https?://|www\.)[^\s()]*\)", "$1")
    return words.str.replace_all(r"(?i)\b(?:https?://|www\.)[^\s<>()]*[^\s<>().,;:!?]", "")


def _white_space(text: pl.Expr, _: DataSection) -> pl.Expr:
    return text.str.replace_all(r"\s+", " ").str.strip_chars()


def _prefix(text: pl.Expr, _: DataSection) -> pl.Expr:
    return text.str.replace(r"^\s*[Qq]\s*[.:]\s*", "")


def _closings(text: pl.Expr, section: DataSection) -> pl.Expr:
    """Without the stock sentences at the end. An answer that is nothing else stays, for the audit to name."""
    sentence = "|".join(f"(?:{closing})" for closing in section.closings)
    shorter = text.str.replace(rf"(?i)(^|[.!?>)])\s*(?:(?:{sentence})\s*)+$", "${1}")
    return pl.when(shorter == "").then(text).otherwise(shorter)


STEPS = {
    "unicode": Step(BOTH, _unicode),
    "control-characters": Step(BOTH, _control),
    "html": Step(BOTH, _html),
    "links": Step(BOTH, _links),
    "white-space": Step(BOTH, _white_space),
    "question-prefix": Step(("question",), _prefix),
    "stock-closings": Step(("answer", "rejected"), _closings),
}


def clean(rows: pl.DataFrame, section: DataSection) -> tuple[pl.DataFrame, list[Cleaned]]:
    """Apply the recipe's steps in order to `question`, `answer`, `rejected`, `context` and `system`.

    Raises:
        UserError: a pattern of `data.closings` is no regular expression.
    """
    rows, done = touched(rows, section)
    return rows, [step.told() for step in done]


def touched(rows: pl.DataFrame, section: DataSection) -> tuple[pl.DataFrame, list[Touched]]:
    """The same as `clean`, of some of the rows: `together` tells what was done to all."""
    done = []
    for name in section.clean:
        step = STEPS[name]
        columns = [column for column in step.columns if column in rows.columns]
        try:
            after = rows.with_columns(step.apply(pl.col(column), section).alias(column) for column in columns)
        except pl.exceptions.ComputeError as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"data.closings: {reason}", "regular expressions without look-around") from None
        done.append(_compared(name, rows, after, columns))
        rows = after
    return rows, done


def together(parts: Iterable[list[Touched]]) -> list[Touched]:
    """What the steps did to all rows, of which the parts are some each, in order."""
    found = []
    for steps in zip(*parts, strict=True):
        columns = zip(*(step.columns for step in steps), strict=True)
        first = tuple(tuple(chain(*column))[:SAMPLES] for column in columns)
        found.append(Touched(steps[0].step, sum(step.rows for step in steps), first))
    return found


def _compared(name: str, before: pl.DataFrame, after: pl.DataFrame, columns: list[str]) -> Touched:
    """Which rows a step touched."""
    changed = pl.Series([False] * before.height, dtype=pl.Boolean)
    samples: list[tuple[Sample, ...]] = []
    for column in columns:
        here = before[column] != after[column]
        shown = zip(
            before["row"].filter(here).head(SAMPLES).to_list(),
            before[column].filter(here).head(SAMPLES).to_list(),
            after[column].filter(here).head(SAMPLES).to_list(),
            strict=True,
        )
        samples.append(tuple(shown))
        changed = changed | here
    return Touched(name, int(changed.sum()), tuple(samples))
