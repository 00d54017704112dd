"""Terms and their definitions: `Term: definition`, `Term - definition`, and Markdown's definition lists."""

from __future__ import annotations

import re
from dataclasses import dataclass

from residency.data.synthesise.lines import BULLET, bare
from residency.data.synthesise.words import words

LONGEST_TERM = 5  # words
SHORTEST_DEFINITION = 4  # words
WRAPPED = 60  # characters from which a line may have been wrapped

_TERM = r"(?P<mark>\*\*|__|)(?P<term>[^\W_][^:.?!;,|*\n]{0,60}?)"
_ENTRY = re.compile(rf"\s*(?:[-*+•]\s+)?{_TERM}(?:(?:(?P=mark)\s*:|:(?P=mark))\s+|(?P=mark)\s+[-–—]\s+)(?P<text>\S.*)")
_CODE = re.compile(r"^ {0,3}(```+|~~~+).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_LISTED = re.compile(r"^([^\s:].{0,60})\n {0,3}:[ \t]+", re.MULTILINE)
_NOT_TERMS = frozenset(
    words(
        "a address answer author caution copyright date email example fax figure hint important isbn licence license "
        "name note phone please q question reference remember source step summary table tel telephone tip title url "
        "version warning web website"
    )
)


@dataclass(frozen=True)
class Glossary:
    """(term, definition) in order, the share of the text's items that they are, and whether a definition list says so.

    Items are paragraphs, list items and entries.
    """

    entries: tuple[tuple[str, str], ...]
    share: float
    listed: bool


def glossary(text: str) -> Glossary:
    """The terms that a text defines, each with its definition on one line; code defines none."""
    text, listed = _LISTED.subn(r"\1: ", _CODE.sub("", text))
    entries: list[tuple[str, list[str]]] = []
    items, open_entry, above = 0, False, ""
    for line in text.splitlines():
        begun = _entry(line) if BULLET.match(line) or _closed(above) else None
        item = bool(line.strip()) and bool(begun or BULLET.match(line) or not above.strip())
        if begun:
            entries.append((begun[0], [begun[1]]))
        elif open_entry and line.strip() and not item:
            entries[-1][1].append(line.strip().removeprefix(": "))
        open_entry = begun is not None or (open_entry and bool(line.strip()) and not item)
        items, above = items + item, line
    return Glossary(
        tuple((term, " ".join(parts)) for term, parts in entries), len(entries) / max(items, 1), bool(listed)
    )


def _closed(line: str) -> bool:
    """Whether what a line says ends with it: in wrapped prose "the next line: so to speak" defines nothing."""
    return len(line) < WRAPPED or line.rstrip()[-1:] in ".!?;。" or _entry(line) is not None


def begins_entry(line: str) -> bool:
    """Whether a line begins with a term and its definition."""
    return _entry(line) is not None


def _entry(line: str) -> tuple[str, str] | None:
    found = _ENTRY.fullmatch(line.rstrip())
    if not found:
        return None
    term = bare(found["term"])
    known = words(term)
    fits = 0 < len(known) <= LONGEST_TERM and len(words(found["text"])) >= SHORTEST_DEFINITION
    return (term, found["text"]) if fits and known[0].lower() not in _NOT_TERMS else None
