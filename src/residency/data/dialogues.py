"""From a table in some shape to dialogues: row, question and answer, and turn and system where there are turns."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from residency.data import conversations, preferences, privacy, schema
from residency.errors import UserError

DROPPED = {"row": pl.UInt32, "reason": pl.String, "question": pl.String, "answer": pl.String}


@dataclass(frozen=True)
class Dialogues:
    """Rows to learn from, and the records that hold none: row, reason, question and answer as far as there are any.

    Those that are dropped are told apart by kind, each in the order of the source.
    """

    rows: pl.DataFrame
    dropped: tuple[pl.DataFrame, ...] = ()


def read(table: pl.DataFrame, shape: schema.Shape, on_error: str) -> Dialogues:
    """The dialogues in a table.

    Raises:
        UserError: a conversation or a pair is malformed and `on_error` is stop, or a column holds no text.
    """
    if shape.rejected:
        return _pairs(table, shape, on_error)
    if shape.messages:
        return _conversations(table, shape.messages, on_error)
    empty = pl.Series("question", [""] * table.height, dtype=pl.String)
    columns = {
        "row": table["row"],
        "question": schema.texts(table, shape.question) if shape.question else empty,
        "answer": schema.texts(table, shape.answer),
    }
    if shape.context:
        columns["context"] = schema.texts(table, shape.context)
    return Dialogues(pl.DataFrame(columns))


def paired(rows: pl.DataFrame) -> Dialogues:
    """Pairs that were made from documents; each keeps the passage that it is from."""
    return Dialogues(rows)


def dropped(rows: list[tuple[int, str, str]]) -> pl.DataFrame:
    """A table of dropped rows from (row, reason, what was found)."""
    return pl.DataFrame([(row, reason, "", text) for row, reason, text in rows], schema=DROPPED, orient="row")


def complete(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows after cleaning, context put under the question and earlier turns put into a history."""
    if "turn" in rows.columns:
        rows = conversations.with_history(rows)
        return preferences.last_turns(rows) if "rejected" in rows.columns else rows
    if "context" not in rows.columns:
        return rows
    alone = pl.col("context") == ""
    joined = pl.when(alone).then("question").otherwise(pl.col("question") + "\n\n" + pl.col("context"))
    return rows.with_columns(question=joined).drop("context")


def _conversations(table: pl.DataFrame, column: str, on_error: str) -> Dialogues:
    turns = conversations.explode(table, column)
    _refuse(turns.malformed, on_error)
    malformed = [(row, "malformed conversation", why) for row, why in turns.malformed]
    unanswered = [(row, "no assistant turn", "") for row in turns.unanswered]
    return Dialogues(turns.rows, (dropped(malformed), dropped(unanswered)))


def _pairs(table: pl.DataFrame, shape: schema.Shape, on_error: str) -> Dialogues:
    """Pairs of a chosen and a rejected answer, and the votes and records that gave none."""
    named = {"question": shape.question, "answer": shape.answer, "rejected": shape.rejected}
    if any(name and table[name].dtype.is_nested() for name in named.values()):
        empty = pl.lit("").alias("question")
        columns = [pl.col(name).alias(ours) if name else empty for ours, name in named.items()]
        found = preferences.from_messages(table.select("row", *columns))
    else:
        rows = pl.DataFrame(
            {"row": table["row"]} | {ours: schema.texts(table, name) for ours, name in named.items() if name}
        )
        if shape.context:
            rows = rows.with_columns(context=schema.texts(table, shape.context))
        found = preferences.from_votes(rows, schema.texts(table, shape.vote)) if shape.vote else preferences.Pairs(rows)
    _refuse(found.malformed, on_error)
    malformed = dropped([(row, "malformed pair", why) for row, why in found.malformed])
    return Dialogues(found.rows, (found.undecided, malformed))


def _refuse(malformed: list[tuple[int, str]], on_error: str) -> None:
    if malformed and on_error == "stop":
        row, why = malformed[0]
        raise UserError(f"row {row}: {privacy.redacted(why)}", fix="mend it, or set data.on_error: skip")
