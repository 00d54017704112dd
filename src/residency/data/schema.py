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
    rejected: str | None = None
    vote: str | None = None
    other: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that are read."""
        names = (self.question, self.context, self.answer, self.rejected, self.messages, self.vote)
        return tuple(name for name in names if name)

    def __str__(self) -> str:
        return privacy.redacted_names(self._told())  # the columns of a file without a header are its first row

    def _told(self) -> str:
        if self.messages:
            return f"{self.kind}: each assistant turn of {self.messages}"
        asked = f"{self.question}{f' + {self.context}' if self.context else ''} -> " if self.question else ""
        if self.vote:
            return f"{self.kind}: {asked}{self.answer} or {self.rejected}, as {self.vote} says"
        if self.rejected:
            return f"{self.kind}: {asked}{self.answer} over {self.rejected}"
        if self.question is None:
            return f"{self.kind}: {self.answer}"
        return f"{self.kind}: {asked}{self.answer}"


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
# kind, chosen, rejected, vote
PREFERENCES = (
    ("preference", "chosen", "rejected", None),
    ("votes", "answer_a", "answer_b", "vote"),
    ("votes", "answer_a", "answer_b", "winner"),
)
ASKED = ("prompt", "question", "instruction", "input")


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
    pairs = _preference(rows, columns, section)
    if pairs:
        return replace(pairs, context=context, other=tuple(str(shape) for shape in found))
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
            "question/answer, instruction/response, input/output, chosen/rejected, messages, conversations or text",
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


def _preference(rows: pl.DataFrame, columns: list[str], section: DataSection) -> Shape | None:
    """Two answers of which one is preferred: as the recipe names them, or by their names where it names no answer."""
    lowered = {name.lower().strip(): name for name in columns}
    if section.rejected:
        kind, vote = "preference", None
        chosen = _column("answer", section.answer or _missing("answer", columns), columns)
        rejected = _column("rejected", section.rejected, columns)
    else:
        fits = [pair for pair in PREFERENCES if all(name is None or name in lowered for name in pair[1:])]
        if not fits or section.answer:
            return None
        kind, chosen, rejected, vote = fits[0]
        chosen, rejected, vote = lowered[chosen], lowered[rejected], vote and lowered[vote]
    asked = next((lowered[name] for name in ASKED if name in lowered), None)
    question = _column("question", section.question, columns) if section.question else asked
    if question is None and not rows[chosen].dtype.is_nested():
        raise UserError(
            f"data.source {section.source}: {chosen} and {rejected} are texts, and no column holds the question",
            f"one of {listed(ASKED)}, or lists of messages that hold it",
            "name it as data.question",
        )
    if section.context and any(name and rows[name].dtype.is_nested() for name in (question, chosen, rejected)):
        raise UserError("data.context: these pairs are lists of messages", "context in the messages", "leave it out")
    return Shape(kind, chosen, question, rejected=rejected, vote=vote)


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


def refuse_private(shape: Shape, source: str) -> None:
    """Nothing, unless a column that is read has personal data for its name, which recipe and report would repeat.

    Raises:
        UserError: it has, as in a file whose first row stands where the header belongs.
    """
    names = listed(shape.columns)
    if privacy.redacted_names(names) != names:
        raise UserError(
            f"data.source {source}: names of columns hold personal data ({privacy.redacted_names(names)[:200]})",
            "a header of names; this looks like the first row",
            "put a line with the columns' names before it",
        )


def shown(columns: Iterable[str]) -> str:
    """The columns for a message; those of a file without a header are its first row."""
    return privacy.redacted_names(listed(columns))


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
