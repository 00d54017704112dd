"""Cleaning as a list of named steps, each of which says how many rows it touched and shows some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

SAMPLES = 3


@dataclass(frozen=True)
class Cleaned:
    """What a step did: rows touched, and up to three of them as (row, before, after)."""

    step: str
    rows: int
    samples: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True)
class Step:
    """A cleaning step: the columns it applies to, and what it does to their text."""

    columns: tuple[str, ...]
    apply: Callable[[pl.Expr], pl.Expr]


STEPS = {
    "white-space": Step(
        ("question", "answer", "context"), lambda text: text.str.replace_all(r"\s+", " ").str.strip_chars()
    ),
    "question-prefix": Step(("question",), lambda text: text.str.replace(r"^\s*[Qq]\s*[.:]\s*", "")),
}


def clean(rows: pl.DataFrame, steps: tuple[str, ...]) -> tuple[pl.DataFrame, list[Cleaned]]:
    """Apply the steps in order to `question`, `answer` and `context`."""
    done = []
    for name in steps:
        step = STEPS[name]
        columns = [column for column in step.columns if column in rows.columns]
        after = rows.with_columns(step.apply(pl.col(column)) for column in columns)
        done.append(compare(name, rows, after, columns))
        rows = after
    return rows, done


def compare(name: str, before: pl.DataFrame, after: pl.DataFrame, columns: list[str]) -> Cleaned:
    """Which rows a step touched."""
    changed = pl.Series([False] * before.height, dtype=pl.Boolean)
    samples: list[tuple[int, str, str]] = []
    for column in columns:
        here = before[column] != after[column]
        samples += zip(
            before["row"].filter(here).head(SAMPLES).to_list(),
            before[column].filter(here).head(SAMPLES).to_list(),
            after[column].filter(here).head(SAMPLES).to_list(),
            strict=True,
        )
        changed = changed | here
    return Cleaned(name, int(changed.sum()), tuple(samples[:SAMPLES]))
