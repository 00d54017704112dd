"""What is done with a row whatever stands in the others, on some of the rows at a time.

Reading dialogues out of columns, cleaning, placeholders for personal data, the prompt and the lengths in tokens: none
of it needs all rows. A shard is a run of rows that go through it together. How many there are, and which process each
goes through, leaves what comes of it as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from residency.data import dialogues, keep, privacy, schema
from residency.data.clean import Touched, together, touched
from residency.prompts import Prompt
from residency.recipe import DataSection, Recipe

ROWS = 4096  # of a shard, at most: as many as the tokenizer takes at once
BYTES = 1 << 25  # of a shard, about: what a process holds does not grow with the length of the texts


@dataclass(frozen=True)
class Done:
    """Rows with prompts and lengths in tokens, and what is to be told of the way to them.

    `unread` are the records that held no dialogue, of each kind a table; `private` says which of the rows that cleaning
    shows held personal data.
    """

    rows: pl.DataFrame
    unread: tuple[pl.DataFrame, ...]
    empty: pl.DataFrame
    cleaned: list[Touched]
    redacted: dict[str, int]
    private: frozenset[int]


@dataclass(frozen=True)
class Rowwise:
    """The work on a shard; `shape` is None for rows that are dialogues already, `asked` says if they have questions.

    Raises, when it is called:
        UserError: a conversation or a pair is malformed and `data.on_error` is stop, or a setting is wrong.
    """

    shape: schema.Shape | None
    asked: bool
    recipe: Recipe
    prompt: Prompt

    def __call__(self, rows: pl.DataFrame) -> Done:
        """What comes of a shard."""
        section = self.recipe.data
        read = dialogues.read(rows, self.shape, section.on_error) if self.shape else dialogues.Dialogues(rows)
        plain, cleaned = touched(read.rows, section)
        plain, redacted, private = _redacted(plain, cleaned, section)
        filled, empty = keep.filled(dialogues.complete(plain), self.asked)
        measured = keep.measured(filled, self.prompt, self.recipe)
        unread = tuple(public(kind, section) for kind in read.dropped)
        return Done(measured.rechunk(), unread, empty, cleaned, redacted, private)


def shards(rows: pl.DataFrame, section: DataSection) -> list[pl.DataFrame]:
    """The rows in order, some at a time; an empty table is one shard.

    All rows are one where people's names are looked for: a name is told from a word by whether other rows have it too.
    """
    if section.names:
        return [rows]
    each = max(1, rows.estimated_size()) / max(1, rows.height)  # bytes
    step = int(max(1, min(ROWS, BYTES // each)))
    return [rows.slice(start, step) for start in range(0, max(1, rows.height), step)]


def joined(parts: Iterable[Done]) -> Done:
    """What came of all shards, given in order."""
    every = list(parts)
    counts: Counter[str] = Counter()
    for part in every:
        counts.update(part.redacted)
    return Done(
        pl.concat([part.rows for part in every], rechunk=True),
        tuple(pl.concat(kind) for kind in zip(*(part.unread for part in every), strict=True)),
        pl.concat([part.empty for part in every]),
        together(part.cleaned for part in every),
        dict(counts),
        frozenset().union(*(part.private for part in every)),
    )


def public(rows: pl.DataFrame, section: DataSection) -> pl.DataFrame:
    """What is shown but not learnt from, without personal data where the recipe wants none."""
    return privacy.redact(rows, section.names)[0] if section.redact and not rows.is_empty() else rows


def changed(before: pl.DataFrame, after: pl.DataFrame) -> set[int]:
    """The numbers of the rows that are not as they were."""
    return set(before["row"].filter(before.hash_rows() != after.hash_rows()))


def _redacted(
    rows: pl.DataFrame, cleaned: list[Touched], section: DataSection
) -> tuple[pl.DataFrame, dict[str, int], frozenset[int]]:
    """The rows without personal data, the counts of it, and which of the rows that are shown held some."""
    if not section.redact:
        return rows, {}, frozenset()
    after, counts = privacy.redact(rows, section.names)
    shown = {row for step in cleaned for samples in step.columns for row, _, _ in samples}
    return after, counts, frozenset(changed(rows, after) & shown)
