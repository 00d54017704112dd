"""What shape the records have: which columns are the question and the answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import polars as pl

from residency.data import conversations, privacy
from residency.errors import UserError, listed, nearest
from residency.recipe import DataSection


@dataclass(frozen=True)
class Shape:
    """A reading of a table. `other` holds the readings that would have fitted as well."""

    kind: str
    answer: str
    question: str | None = None
    context: str | None = None
    messages: str | None = None
    other: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.messages:
            return f"{self.kind}: each assistant turn of {self.messages}"
        if self.question is None:
            return f"{self.kind}: {self.answer}"
        return f"{self.kind}: {self.question}{f' + {self.context}' if self.context else ''} -> {self.answer}"


# kind, question, context, answer; the order decides where several fit
KNOWN = (
    ("question/answer", "question", None, "answer"),
    ("instruction/response", "instruction", "input", "response"),
    ("instruction/response", "instruction", "input", "output"),
    ("instruction/response", "instruction", None, "response"),
    ("instruction/response", "instruction", None, "output"),
    ("input/output", "input", None, "output"),
    ("question/answer", "prompt", None, "completion"),
    ("question/answer", "prompt", None, "response"),
    ("question/answer", "description", None, "doctor"),
    ("text", None, None, "text"),
)
MESSAGES = ("messages", "conversations", "conversation")


def recognise(rows: pl.DataFrame, section: DataSection) -> Shape:
    """The columns to learn from: as the recipe names them, or by their names.

    Raises:
        UserError: a named column does not exist, or no known shape fits; the message names the columns there are.
    """
    columns = [name for name in rows.columns if name != "row"]
    if section.messages:
        return _messages(rows, _column("messages", section.messages, columns))
    if section.text:
        return Shape("text", _column("text", section.text, columns))
    found = _known(columns)
    context = _column("context", section.context, columns) if section.context else None
    if section.question or section.answer:
        question = section.question or _missing("question", columns)
        answer = section.answer or _missing("answer", columns)
        return Shape(
            "question/answer", _column("answer", answer, columns), _column("question", question, columns), context
        )
    talks = [name for name in columns if name.lower() in MESSAGES and conversations.holds_messages(rows[name])]
    if talks:
        return replace(_messages(rows, talks[0]), other=tuple(str(shape) for shape in found))
    if not found:
        raise UserError(
            f"data.source {section.source}: no known record shape; its columns are {shown(columns)}",
            "question/answer, instruction/response, input/output, messages, conversations or text",
            "name them as data.question and data.answer, or data.text",
        )
    return replace(found[0], context=context) if context else found[0]


def _messages(rows: pl.DataFrame, column: str) -> Shape:
    if not conversations.holds_messages(rows[column]):
        raise UserError(
            f'data.messages: column "{column}" holds {rows[column].dtype}',
            "a list of messages with role and content, or from and value",
        )
    return Shape("messages", column, messages=column)


def _known(columns: list[str]) -> list[Shape]:
    lowered = {name.lower().strip(): name for name in columns}
    fits = [
        Shape(kind, lowered[answer], lowered[question] if question else None, lowered[context] if context else None)
        for kind, question, context, answer in KNOWN
        if all(name is None or name in lowered for name in (question, context, answer))
    ]
    if not fits:
        return []
    first = fits[0]
    other = tuple(str(shape) for shape in fits[1:] if (shape.question, shape.answer) != (first.question, first.answer))
    return [replace(first, other=other)]


def _column(field: str, name: str, columns: list[str]) -> str:
    if name in columns:
        return name
    raise UserError(f'data.{field}: no column "{name}"', f"one of {shown(columns)}", nearest(name, columns))


def _missing(field: str, columns: list[str]) -> str:
    raise UserError(f"data.{field} is missing", f"one of the columns {shown(columns)}", "name both or neither")


def shown(columns: Iterable[str]) -> str:
    """The columns for a message; those of a file without a header are its first row."""
    return privacy.redacted(listed(columns))


def texts(rows: pl.DataFrame, name: str) -> pl.Series:
    """A column as text, nothing where there is nothing.

    Raises:
        UserError: the column holds lists, objects or bytes that are no text.
    """
    column = rows[name]
    if column.dtype.is_nested():
        raise UserError(f'column "{name}" holds {column.dtype}', "text", "choose another column")
    try:
        return rows.select(pl.col(name).cast(pl.String).fill_null("")).to_series()
    except pl.exceptions.PolarsError:
        raise UserError(f'column "{name}" holds {column.dtype} that is no text', "text in UTF-8") from None
