"""Personal data in rows becomes placeholders: in a row, and in a conversation, one value has one placeholder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from residency.data.privacy import names as naming
from residency.data.privacy.finder import HIDDEN, Finder, Span, compact
from residency.data.privacy.finders import FINDERS

COLUMNS = ("system", "question", "context", "answer", "rejected")  # in reading order: placeholders count upwards
KINDS = (*dict.fromkeys(finder.kind for finder in FINDERS if finder.kind), "name")
HINT = "|".join(f"(?:{finder.hint})" for finder in FINDERS if finder.kind)
PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(KINDS).upper()})(?:_\d+)?\]")
NATIONAL = 9  # digits of a phone number that are the same with the country's code and without
# One character for one, so that a place in the folded text is the same place in the text.
FOLD = str.maketrans("\t\u00a0\u2007\u2009\u202f\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0b", "     -------+") | {
    zero + digit: str(digit) for zero in (0x660, 0x6F0, 0x966, 0xFF10) for digit in range(10)
}


@dataclass(frozen=True)
class Hit:
    """Personal data from character `start` to `end` of a text; `key` is the value, however it is written."""

    start: int
    end: int
    kind: str
    key: str


@dataclass(frozen=True)
class Cell:
    """A text of a row, and the finders that may find something in it."""

    column: str
    place: int
    text: str
    finders: Sequence[Finder]


def redact(rows: pl.DataFrame, names: bool | str = False) -> tuple[pl.DataFrame, dict[str, int]]:
    """Replace personal data in system, question, context and answers; returns the rows and how many of each kind went.

    The counts always hold `email` and `phone`, and those of the other `KINDS` of which there were any. A value that is
    the only one of its kind in a row or conversation becomes [EMAIL]; where there are several, [EMAIL_1], [EMAIL_2].
    `names` also replaces people's names: True by a spaCy model that is installed, a string by the model it names.

    Raises:
        UserError: `names` is asked for, and presidio-analyzer or the spaCy model is not installed.
    """
    columns = [column for column in COLUMNS if column in rows.columns]
    counts = Counter({"email": 0, "phone": 0})
    changed: dict[str, dict[int, str]] = {column: {} for column in columns}
    for record in _records(rows, columns, names):
        found = [_hits(cell) for cell in record]
        counts.update(hit.kind for hits in found for hit in hits)
        for cell, text in zip(record, _marked([cell.text for cell in record], found), strict=True):
            if text != cell.text:
                changed[cell.column][cell.place] = text
    texts = (rows[column].scatter(list(new), list(new.values())) for column, new in changed.items() if new)
    return rows.with_columns(texts), dict(counts)


def redacted(text: str) -> str:
    """One text without personal data, for a message about somebody's data."""
    return str(redact(pl.DataFrame({"answer": [text]}))[0]["answer"][0])


def redacted_names(text: str) -> str:
    """A message with names of columns in it, without personal data: a name that stood twice has a number behind it."""
    apart = re.sub(r"_(?=\d+\b)", " _", text)
    public = redacted(apart)
    return text if public == apart else public


def told(counts: Mapping[str, int]) -> str:
    """The counts in words, without the kinds of which there are none: `4 email, 3 birth date`."""
    return ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in counts.items() if count)


def _records(rows: pl.DataFrame, columns: Sequence[str], names: bool | str) -> Iterator[list[Cell]]:
    """The texts of each row that may hold something, in reading order; those of a conversation together."""
    hinted = pl.any_horizontal(pl.lit(bool(names)), *(pl.col(c).cast(pl.String).str.contains(HINT) for c in columns))
    record = "row" if "turn" in rows.columns else "place"
    some = rows.with_row_index("place").filter(hinted.any().over(record) if record == "row" else hinted)
    some = some.select("place", pl.col(columns).cast(pl.String), record=record)
    texts = some.unpivot(columns, index=["record", "place"], variable_name="column", value_name="text")
    texts = texts.filter(pl.col("text") != "").sort("record", "place", maintain_order=True)
    finders = iter(_finders(texts["text"], names))
    for _, cells in texts.group_by("record", maintain_order=True):
        named = cells.select("column", "place", "text").iter_rows(named=True)
        yield [Cell(**cell, finders=next(finders)) for cell in named]


def _finders(texts: pl.Series, names: bool | str) -> list[list[Finder]]:
    """For each text the finders whose hint holds, and the one that knows its names."""
    hints = [texts.str.contains(finder.hint).to_list() for finder in FINDERS]
    found = [[f for f, holds in zip(FINDERS, held, strict=True) if holds] for held in zip(*hints, strict=True)]
    people = naming.people(texts.to_list(), names) if names else []
    for finders, spans in zip(found, people, strict=False):
        finders.append(_known(spans))
    return found


def _known(spans: list[Span]) -> Finder:
    return Finder("name", "", lambda _: spans)


def _hits(cell: Cell) -> list[Hit]:
    """What is personal in a text, from left to right. It is looked at until nothing more is found.

    What has a placeholder is hidden like what is found: with it in sight a second look at a redacted text would see
    another text than the first one, and find more.
    """
    left = PLACEHOLDER.sub(lambda mark: HIDDEN * len(mark[0]), cell.text.translate(FOLD))
    hits: list[Hit] = []
    while found := _found(left, cell.finders):
        hits += found
        left = _hidden(left, [(hit.start, hit.end) for hit in found])
    return sorted(hits, key=lambda hit: hit.start)


def _found(text: str, finders: Iterable[Finder]) -> list[Hit]:
    """What one look finds, from left to right; what one finder took, the next does not see."""
    hits = []
    for finder in finders:
        spans = [(start, end) for start, end in finder.spans(text) if HIDDEN not in text[start:end]]
        if finder.kind:
            hits += [Hit(start, end, finder.kind, _key(finder.kind, text[start:end])) for start, end in spans]
        text = _hidden(text, spans)
    return sorted(hits, key=lambda hit: hit.start)


def _hidden(text: str, spans: Iterable[Span]) -> str:
    return _replaced(text, [(start, end, HIDDEN * (end - start)) for start, end in spans])


def _key(kind: str, value: str) -> str:
    if kind == "phone":
        return re.sub(r"\D", "", value.replace("(0)", "")).lstrip("0")
    return "".join(value.split()).casefold() if kind in ("email", "url") else compact(value)


def _marked(texts: list[str], found: list[list[Hit]]) -> list[str]:
    """The texts of one record with a placeholder for each hit, numbered on from those that stand there already."""
    numbers = _numbers(hit for hits in found for hit in hits)
    kinds = {kind for kind, _ in numbers}
    there = {kind: _last_placeholder(kind, texts) for kind in kinds}
    last = {kind: there[kind] + max(n for (k, _), n in numbers.items() if k == kind) for kind in kinds}

    def mark(hit: Hit) -> str:
        number = there[hit.kind] + numbers[hit.kind, hit.key]
        return f"[{hit.kind.upper()}_{number}]" if last[hit.kind] > 1 else f"[{hit.kind.upper()}]"

    marks = [[(hit.start, hit.end, mark(hit)) for hit in hits] for hits in found]
    return [_replaced(text, places) for text, places in zip(texts, marks, strict=True)]


def _last_placeholder(kind: str, texts: Iterable[str]) -> int:
    marks = (re.findall(rf"\[{kind.upper()}(?:_(\d{{1,6}}))?\]", text) for text in texts)
    return max((int(number or 1) for found in marks for number in found), default=0)


def _numbers(hits: Iterable[Hit]) -> dict[tuple[str, str], int]:
    """A number for each value, by kind and key, from 1; a phone number with its country's code and without has one."""
    numbers: dict[tuple[str, str], int] = {}
    endings: dict[tuple[str, str], list[str]] = {}
    counts: Counter[str] = Counter()
    for kind, key in dict.fromkeys((hit.kind, hit.key) for hit in hits):
        alike = endings.setdefault((kind, key[-NATIONAL:] if kind == "phone" else key), [])
        twin = next((other for other in alike if other.endswith(key) or key.endswith(other)), None)
        alike.append(key)
        counts[kind] += twin is None
        numbers[kind, key] = counts[kind] if twin is None else numbers[kind, twin]
    return numbers


def _replaced(text: str, places: Iterable[tuple[int, int, str]]) -> str:
    """The text with something else in some places, which are given from left to right."""
    parts, at = [], 0
    for start, end, instead in places:
        parts += [text[at:start], instead]
        at = end
    return "".join(parts) + text[at:]
