"""The lines of a document and what each of them is: blank, text, code or a heading."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

BULLET = re.compile(r"\s*(?:[-*+•]\s|\|)")
NUMBERED = re.compile(r"\A\s*(?:\d+(?:\.\d+)*[.)]|\d+(?:\.\d+)+|\d{1,2}(?=\s+[^\W\d_a-z]))\s+")  # not "3 ways to"

_ATX = re.compile(r" {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})\s*")
_RULE = re.compile(r" {0,3}([-*_])(?:\s*\1){2,}\s*")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_EMPHASIS = re.compile(r"(?<!\w)([*_]{1,3}|`+)(\S(?:.*?\S)?)\1(?!\w)")


@dataclass(frozen=True)
class Line:
    """One line of a document; `level` counts for headings and questions, 1 being the title's."""

    kind: Literal["blank", "text", "code", "heading", "question"]
    text: str
    level: int = 0


BLANK = Line("blank", "")


def read(text: str) -> list[Line]:
    """The document's lines. Front matter (but for its title), comments and rules are markup and left out."""
    found: list[Line] = []
    raw = _without_markup(text).split("\n")
    code_to = 0
    for place, line in enumerate(raw):
        code_to = max(code_to, _end_of_code(raw, place)) if place >= code_to else code_to
        if place < code_to:
            found.append(Line("code", line))
        elif (underline := _UNDERLINE.fullmatch(line)) and _heads(found):
            found[-1] = Line("heading", found[-1].text, 1 if underline[1][0] == "=" else 2)
        else:
            found.append(_line(line))
    return found


def bare(text: str) -> str:
    """A heading's or question's words, without emphasis and the targets of links."""
    text = _LINK.sub(r"\1", text)
    for _ in range(3):  # bold in italics in code
        text = _EMPHASIS.sub(r"\2", text)
    return " ".join(text.split())


def neighbours(lines: Sequence[Line]) -> Iterator[tuple[Line, Line]]:
    """For each line the nearest one above and below that is not blank; at the ends a blank one."""
    below, after = [], BLANK
    for line in reversed(lines):
        below.append(after)
        after = after if line.kind == "blank" else line
    before = BLANK
    for line, after in zip(lines, reversed(below), strict=True):
        yield before, after
        before = before if line.kind == "blank" else line


def _without_markup(text: str) -> str:
    text = "\n".join(text.removeprefix("\ufeff").splitlines())
    front = _FRONT_MATTER.match(text)
    if front:
        title = _TITLE.search(front[1])
        text = (f"# {title[1].strip(chr(34) + chr(39))}\n" if title else "") + text[front.end() :]
    return _COMMENT.sub("", text)


def _end_of_code(lines: list[str], start: int) -> int:
    """The place after the code that a fence opens; 0 where the line is none, or nothing closes it."""
    mark = _FENCE.match(lines[start])
    if mark:
        closing = re.compile(rf" {{0,3}}{mark[1]}{mark[1][0]}*\s*")
        for place in range(start + 1, len(lines)):
            if closing.fullmatch(lines[place]):
                return place + 1
    return 0


def _heads(above: list[Line]) -> bool:
    """Whether a row of dashes underlines the line above it: a line of text that stands alone."""
    alone = len(above) < 2 or above[-2].kind in ("blank", "heading")
    return bool(above) and above[-1].kind == "text" and alone and not BULLET.match(above[-1].text)


def _line(line: str) -> Line:
    if not line.strip() or _RULE.fullmatch(line) or _FENCE.fullmatch(line):
        return BLANK
    heading = _ATX.fullmatch(line)
    if heading:
        return Line("heading", heading[2], len(heading[1])) if heading[2] else BLANK
    return Line("text", line.rstrip())
