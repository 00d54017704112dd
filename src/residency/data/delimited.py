"""CSV and its kin: a delimiter that is found out, every field as text, and quotes that swallow no rows.

Records are read one at a time, so that after a faulty one the reading goes on where the next row begins: after an
unclosed quote that is the very next line, not the line where some other quote happens to close it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

LONGEST = 1 << 23  # characters of a line or field: cleaning and tokenising so many takes 6 s and 1.5 GiB
MOST_LINES = 1000  # of one record; beyond it a quote was not closed
DELIMITERS = (",", ";", "\t", "|")
UNCLOSED = "a quote that is not closed"
SNIFFED = 200  # lines
_HINT = re.compile(r"sep=(.)\r?\n?")  # the first line of what Excel exports


@dataclass(frozen=True)
class Record:
    """A row: the index of its first line, that of the line after it, and its fields, or what is wrong with it."""

    first: int
    after: int
    values: list[str]
    fault: str = ""


def delimiter_of(lines: Sequence[str], default: str) -> str:
    """The delimiter that cuts most lines into as many fields as the first has, and more than one."""
    best, chosen = (0.0, False, 0), default
    for delimiter in DELIMITERS:
        try:
            widths = [len(values) for values in csv.reader(lines[:SNIFFED], delimiter=delimiter) if values]
        except csv.Error:
            continue
        if widths and widths[0] > 1:
            score = (widths.count(widths[0]) / len(widths), delimiter == default, widths[0])
            if score > best:
                best, chosen = score, delimiter
    return chosen


def without_hint(lines: list[str]) -> tuple[list[str], str | None]:
    """The lines, an Excel hint `sep=;` blanked out, and the delimiter that it names."""
    hint = _HINT.fullmatch(lines[0]) if lines else None
    return (["\n", *lines[1:]], hint[1]) if hint else (lines, None)


@contextmanager
def long_fields() -> Iterator[None]:
    """Fields of up to `LONGEST` characters; Python's own limit is 131,072."""
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def header(lines: Sequence[str], delimiter: str) -> Record | None:
    """The first record that is not blank; None where there is none."""
    start = 0
    while start < len(lines):
        record = _record(lines, start, delimiter)
        if record.values or record.fault:
            return record
        start = record.after
    return None


@dataclass(frozen=True)
class Lines:
    """The lines of a file, its header and its delimiter."""

    lines: Sequence[str]
    header: Record
    delimiter: str

    def records(self) -> Iterator[Record]:
        """All records after the header that are not blank; one of another width than the header's has a fault."""
        width, start = len(self.header.values), self.header.after
        while start < len(self.lines):
            record = _record(self.lines, start, self.delimiter)
            if not record.fault and record.values and len(record.values) != width:
                record = replace(record, fault=f"{len(record.values)} fields, the header has {width}")
            start = self._resume(record) if record.fault else record.after
            if record.values or record.fault:
                yield record

    def swallowed(self, record: Record) -> bool:
        """Whether every line within a record looks like a row of its own."""
        inner = self.lines[record.first + 1 : record.after - 1]
        return bool(inner) and all(map(self._like_a_row, inner))

    def _resume(self, record: Record) -> int:
        """The line where the next row begins: within the faulty record, where most of its lines look like rows."""
        if record.fault == UNCLOSED:
            return record.first + 1
        inner = self.lines[record.first + 1 : record.after]
        alike = sum(map(self._like_a_row, inner))
        return record.first + 1 if inner and 2 * alike >= len(inner) else record.after

    def _like_a_row(self, line: str) -> bool:
        record = _record([line], 0, self.delimiter)
        return line.count('"') % 2 == 0 and not record.fault and len(record.values) == len(self.header.values) > 1


def _record(lines: Sequence[str], start: int, delimiter: str) -> Record:
    following = (lines[i] for i in range(start, min(start + MOST_LINES, len(lines))))
    reader = csv.reader(following, delimiter=delimiter, strict=True)
    try:
        values = next(reader)
    except csv.Error as error:
        return Record(start, start + reader.line_num, [], _why(str(error)))
    fault = _why("NUL") if any("\0" in value for value in values) else ""
    return Record(start, start + reader.line_num, values, fault)


def _why(error: str) -> str:
    if "NUL" in error:  # Python 3.10 refuses it, later ones don't
        return "a NUL byte, which is no text"
    return UNCLOSED if "unexpected end of data" in error else error
