"""What a finder is, and what several of them ask of a number."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Span = tuple[int, int]  # start and end in characters

HIDDEN = "\0"  # stands in a text for each character of what was found
BEFORE = 40  # characters in which a word that explains a number is looked for
_FOUND = 12  # characters that something found counts for, whether it stands there or its placeholder
EDGE, END = r"(?<![\w.+-])", r"(?![\w-])"  # around a number that is no part of a longer one
_YEAR_OR_ROUND = r"(?:(?:19|20)\d\d|\d+0)"
_COUNTED = re.compile(rf"\D*{_YEAR_OR_ROUND}(?:\D+{_YEAR_OR_ROUND})+")


@dataclass(frozen=True)
class Finder:
    """Where one kind of personal data stands in a text. Without a kind it is none: it stays, and hides from the rest.

    `hint` is a regular expression of polars', without look-around. It holds for every text in which `spans` finds
    something, and for few others: Python's expressions are slow, and see only the texts that it holds for.
    """

    kind: str
    hint: str
    spans: Callable[[str], Iterable[Span]]


def shaped(kind: str, hint: str, shape: str, check: Callable[[str], bool] = bool, told: str = "") -> Finder:
    """A finder of what has a shape (in which a group `value` is what counts) and passes a check.

    `told` are words of which one stands shortly before.
    """
    pattern, word = re.compile(shape), re.compile(rf"(?i)\b(?:{told})")
    group = "value" if "value" in pattern.groupindex else 0

    def spans(text: str) -> Iterator[Span]:
        at = 0
        while match := pattern.search(text, at):
            start, end = match.span(group)
            if check(match[group]) and (not told or word.search(before(text, start))):
                yield start, end
                at = end
            else:
                at = match.start() + 1

    return Finder(kind, hint, spans)


def before(text: str, start: int) -> str:
    """What stands shortly before a place."""
    near = text[max(0, start - 10 * BEFORE) : start]
    return re.sub(f"{HIDDEN}+", HIDDEN * _FOUND, near)[-BEFORE:]


def compact(value: str) -> str:
    """A number without what is written between its signs, in capitals."""
    return re.sub(r"[\W_]", "", value).upper()


def is_counted(number: str) -> bool:
    """Whether all groups of digits, two or more, are years or round numbers: nobody's number is written so."""
    return bool(_COUNTED.fullmatch(number))
