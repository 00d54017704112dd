"""A first look at somebody's data: what shape it has, which columns to learn from, how long the rows are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from residency.data import privacy, schema, sources
from residency.errors import UserError
from residency.recipe import DataSection

TOKENS_PER_WORD = 1.5  # of English in a vocabulary of some ten thousand; medical words are cut into more
SHORTEST_LIMIT = 256  # tokens
ROOM = 64  # tokens of a template around question and answer
SAMPLED = 2000
PREFERRED = {
    "objective": "dpo",
    "epochs": 1,
    "learning_rate": 5e-5,
}  # a quarter of the rate that answers are learnt with


@dataclass(frozen=True)
class Proposal:
    """What a recipe could say of this data, and lines for the person who will read it."""

    data: dict[str, Any]
    max_length: int
    lines: list[str]
    train: dict[str, Any]


def look(source: str, given: Any = None) -> Proposal:
    """Propose the data section of a recipe for a source, or for a data frame or data set that takes its place.

    Raises:
        UserError: the source can't be read, or has no column of text, or one with personal data for its name.
    """
    section = DataSection(source=source, on_error="skip")
    table = sources.load(section, given)
    rows = table.rows.head(SAMPLED)
    lines = [f"{table.rows.height:,} rows, columns {schema.shown(n for n in table.rows.columns if n != 'row')}"]
    lines += table.notes
    if table.unreadable:
        lines.append(
            f"{len(table.unreadable)} rows can't be read; the first: {privacy.redacted(table.unreadable[0][1])}"
        )
    try:
        shape = schema.recognise(rows, section)
        lines.append(f"read as {shape}")
        lines += [f"could also be read as {other}" for other in shape.other]
    except UserError:
        shape = _guess(rows, source)
        lines.append(f"a guess, for you to check: {shape}")
    schema.refuse_private(shape, source)
    longest = _longest(rows, shape)
    limit = _round_up(int(longest * TOKENS_PER_WORD) + ROOM)
    lines.append(f"the longest of {rows.height:,} rows has about {longest:,} words: max_length {limit:,} tokens")
    if shape.rejected:
        lines.append(
            "pairs of answers: train.objective dpo; train.continue_from can name a run that learnt answers before"
        )
    return Proposal({"source": source, **_fields(shape)}, limit, lines, dict(PREFERRED) if shape.rejected else {})


def _guess(rows: pl.DataFrame, source: str) -> schema.Shape:
    """The longest column of text is the answer; the question is the one that most often ends in a question mark."""
    texts = {name: rows[name] for name in rows.columns if name != "row" and rows[name].dtype == pl.String}
    if not texts:
        raise UserError(f"data.source {source}: no column of text; its columns are {schema.shown(rows.columns)}")
    answer = max(texts, key=lambda name: _mean(texts[name].str.len_chars()))
    others = [name for name in texts if name != answer]
    if not others:
        return schema.Shape("text", answer)
    asks = {name: _mean(texts[name].str.strip_chars().str.ends_with("?")) for name in others}
    question = max(others, key=lambda name: (asks[name], _mean(texts[name].str.len_chars())))
    return schema.Shape("question/answer", answer, question)


def _fields(shape: schema.Shape) -> dict[str, Any]:
    if shape.vote:
        return {}  # only their own names are recognised
    if shape.rejected:
        asked = {"question": shape.question} if shape.question else {}
        return asked | {"answer": shape.answer, "rejected": shape.rejected}
    if shape.messages:
        return {"messages": shape.messages}
    if shape.question is None:
        return {"text": shape.answer}
    fields = {"question": shape.question, "answer": shape.answer}
    return fields | ({"context": shape.context} if shape.context else {})


def _longest(rows: pl.DataFrame, shape: schema.Shape) -> int:
    """Words of the longest row in the columns that would be learnt from."""
    if shape.messages:
        texts = rows[shape.messages].to_list()
        return max((sum(len(str(message).split()) for message in talk or []) for talk in texts), default=0)
    if shape.rejected:
        return _longest_pair(rows, shape)
    names = [name for name in (shape.question, shape.context, shape.answer) if name]
    counts = [schema.texts(rows, name).str.count_matches(r"\S+").fill_null(0).cast(pl.Int64) for name in names]
    return int(sum(counts[1:], start=counts[0]).max() or 0) if rows.height else 0


def _longest_pair(rows: pl.DataFrame, shape: schema.Shape) -> int:
    """The same of a pair: words of the question and the longer answer, be they texts or messages."""
    columns = [rows[name].to_list() if name else [""] * rows.height for name in (shape.question, shape.answer)]
    both = zip(*columns, rows[str(shape.rejected)].to_list(), strict=True)
    return max((_words(asked) + max(_words(one), _words(other)) for asked, one, other in both), default=0)


def _words(value: Any) -> int:
    """Of a text, or of all messages in a list."""
    if isinstance(value, list):
        return sum(_words(part.get("content") or part.get("value")) for part in value if part)
    return len(str(value or "").split())


def _round_up(tokens: int) -> int:
    limit = SHORTEST_LIMIT
    while limit < tokens:
        limit *= 2
    return limit


def _mean(values: pl.Series) -> float:
    return float(values.mean() or 0)  # type: ignore[arg-type]
