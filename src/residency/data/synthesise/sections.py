"""A document as sections: its paragraphs under the headings that lead to them.

Markdown's headings are read as they are. A document without any has plain ones: short lines before a paragraph, with a
number, in capitals or with a colon. A question with its answer below is a heading too, under all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from residency.data.synthesise.lines import BLANK, BULLET, NUMBERED, Line, bare, neighbours, read
from residency.data.synthesise.questions import with_questions
from residency.data.synthesise.words import words

LONGEST_HEADING = 8  # words of a plain heading with a blank line below it
LONGEST_WITH_COLON = 3  # words of one that ends in a colon: "After the above, then:" is none
LONGEST_ABOVE_TEXT = 5  # words of one with its text on the very next line, which wrapped prose may look like
SHORTEST_BODY = 6  # words of the line after a plain heading


@dataclass(frozen=True)
class Section:
    """Paragraphs under one heading; `headings` leads to it from the title down."""

    headings: tuple[str, ...]
    paragraphs: tuple[str, ...]


def sections(text: str) -> list[Section]:
    """The sections of a document that hold any text, in order."""
    lines = read(text)
    if not any(line.kind == "heading" for line in lines):
        lines = _with_plain_headings(lines)
    return list(_folded(with_questions(lines)))


def _with_plain_headings(lines: list[Line]) -> list[Line]:
    """The lines with those that head what follows them; one that the document begins with is its title."""
    found: list[Line] = []
    above, started = BLANK, False
    for place, (line, (_, after)) in enumerate(zip(lines, neighbours(lines), strict=True)):
        alone = place + 1 < len(lines) and lines[place + 1].kind == "blank"
        level = _level(line, after, alone, not started) if line.kind == "text" and above.kind == "blank" else 0
        name = NUMBERED.sub("", line.text).strip().removesuffix(":")
        found.append(Line("heading", name, level if started else 1) if level else line)
        started = started or line.kind != "blank"
        above = line
    return found


def _level(line: Line, after: Line, alone: bool, first: bool) -> int:
    """The level of a plain heading, 0 where the line is none."""
    text = line.text.strip()
    number = NUMBERED.match(text)
    name = text[number.end() :] if number else text
    if after.kind != "text" or not _could_be_heading(name) or (number and NUMBERED.match(after.text)):
        return 0
    if not first and line.text.startswith(("    ", "\t")):  # a title may be centred, a heading is not
        return 0
    longest = LONGEST_WITH_COLON if name.endswith(":") else LONGEST_HEADING if alone else LONGEST_ABOVE_TEXT
    prose = len(words(after.text)) >= SHORTEST_BODY and not after.text.strip()[:1].islower()
    shown = name.isupper() or name.endswith(":") or prose or (alone and (first or BULLET.match(after.text)))
    if len(words(name)) > longest or not shown:
        return 0
    return 2 + (number[0].strip(" .)").count(".") if number else 0)


def _could_be_heading(name: str) -> bool:
    begins = name[:1].isalnum() and not name[:1].islower()
    return begins and name[-1:] not in ".,;!?…。！？" and ": " not in name


def _folded(lines: list[Line]) -> Iterator[Section]:
    above: list[tuple[int, str]] = []
    paragraphs: list[list[str]] = [[]]
    code = False
    for line in lines:
        if line.kind in ("heading", "question"):
            yield from _section(above, paragraphs)
            above = [*((level, name) for level, name in above if level < line.level), (line.level, bare(line.text))]
            paragraphs = [[]]
        elif line.kind == "blank" or code != (line.kind == "code"):
            paragraphs.append([])
        if line.kind in ("text", "code"):
            paragraphs[-1].append(line.text)
        code = line.kind == "code"
    yield from _section(above, paragraphs)


def _section(above: list[tuple[int, str]], paragraphs: list[list[str]]) -> Iterator[Section]:
    texts = tuple(text for lines in paragraphs if (text := "\n".join(lines)).strip())
    if texts:
        yield Section(tuple(name for _, name in above), texts)
