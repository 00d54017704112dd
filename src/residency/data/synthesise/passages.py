"""Documents as passages: pieces of one section, cut between paragraphs, and never in mid-sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from residency.data.synthesise.glossary import begins_entry
from residency.data.synthesise.lines import BULLET
from residency.data.synthesise.sections import Section, sections
from residency.data.synthesise.words import sentences, words

_FENCE = re.compile(r" {0,3}(?:```|~~~)")


@dataclass(frozen=True)
class Passage:
    """A piece of one section of a document; `part` counts from 0 within the section, `row` is the document's."""

    row: int
    source: str | None
    headings: tuple[str, ...]
    text: str
    part: int = 0


@dataclass(frozen=True)
class Document:
    """A document with its passages in order; none where it holds no text."""

    text: str
    passages: tuple[Passage, ...]


def documents(rows: pl.DataFrame, longest: int) -> list[Document]:
    """The documents in a table of row, text and, where it is known, source, cut into passages of `longest` words.

    Only one sentence, one line of a table or one block of code can make a passage longer than that.
    """
    sources = rows["source"].cast(pl.String) if "source" in rows.columns else [None] * rows.height
    texts = rows["text"].fill_null("")
    return [
        Document(text, tuple(_passages(row, source, text, longest)))
        for row, text, source in zip(rows["row"], texts, sources, strict=True)
    ]


def _passages(row: int, source: str | None, text: str, longest: int) -> Iterator[Passage]:
    for section in sections(text):
        for part, piece in enumerate(_packed(section, longest)):
            yield Passage(row, source, section.headings, piece, part)


def _packed(section: Section, longest: int) -> list[str]:
    """As many whole pieces as fit go into one passage; what ends in a colon stays with what it leads to."""
    packed: list[list[str]] = [[]]
    size = 0
    for piece in _pieces(section, longest):
        length = len(words(piece))
        if packed[-1] and size + length > longest:
            lead = [packed[-1].pop()] if len(packed[-1]) > 1 and packed[-1][-1].rstrip().endswith(":") else []
            packed.append(lead)
            size = sum(len(words(part)) for part in lead)
        packed[-1].append(piece)
        size += length
    return [text for parts in packed if (text := "".join(parts).strip("\n").rstrip())]


def _pieces(section: Section, longest: int) -> Iterator[str]:
    """The section in pieces that, joined, are its text: paragraphs, and of the long ones lines or sentences."""
    for paragraph in section.paragraphs:
        whole = len(words(paragraph)) <= longest or _FENCE.match(paragraph)
        *earlier, last = [paragraph] if whole else _cut(paragraph)
        yield from earlier
        yield last.rstrip() + "\n\n"


def _cut(paragraph: str) -> list[str]:
    """A list or a glossary by its items, else sentences. Wrapped prose can look like an item here and there."""
    lines = paragraph.splitlines(keepends=True)
    starts = [n for n, line in enumerate(lines) if BULLET.match(line) or begins_entry(line)]
    if 2 * len(starts) < len(lines) or len(starts) < 2:
        return sentences(paragraph)
    bounds = [*sorted({0, *starts}), len(lines)]
    return ["".join(lines[start:end]) for start, end in pairwise(bounds)]
