"""Whether a sign is told of as there now: not denied, not past, not supposed, not from a book.

The words for it are in assets/guard.yaml under `told`. Where it can't be told, the sign counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Patterns = Sequence[re.Pattern[str]]

NEAR = 250  # characters before and after a sign that say how it is told; a sentence may be of any length

_SENTENCE = re.compile(r"(?<=[.?!])\s+|\n+")
_OR = re.compile(r"^,? ?(?:or|nor)\b|\b(?:or|nor) (?:\w+ ){0,2}$")


def plain(text: str) -> str:
    """The text as patterns expect it: straight apostrophes, one blank between words, line breaks kept."""
    straight = text.replace("’", "'").replace("‘", "'")
    return "\n".join(" ".join(line.split()) for line in straight.splitlines())


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text; a line break ends one too."""
    for part in _SENTENCE.split(plain(text)):
        if part.strip():
            yield part.strip()


@dataclass(frozen=True)
class Told:
    """How somebody tells of something that is there: patterns by name, see `assets/guard.yaml`."""

    people: Patterns
    general: Patterns
    asks_for_help: Patterns
    denied: Patterns
    denial_ends: Patterns
    denied_within: Patterns
    undenied: Patterns
    past: Patterns
    present: Patterns
    supposed: Patterns
    caused: Patterns
    read: Patterns

    def of_a_case(self, text: str) -> bool:
        """Whether somebody tells of a case, rather than asks something general, such as what a word means."""
        text = plain(text)
        return found(self.people, text) or not found(self.general, text) or found(self.asks_for_help, text)

    def stands(self, patterns: Patterns, sentence: str) -> bool:
        """Whether one of the patterns is told of in the sentence as being there."""
        if found(self.read, sentence) or (found(self.past, sentence) and not found(self.present, sentence)):
            return False
        matches = (match for pattern in patterns for match in pattern.finditer(sentence))
        return any(self._is_there(match) for match in matches)

    def _is_there(self, match: re.Match[str]) -> bool:
        start, end = match.span()
        before, after = match.string[max(start - NEAR, 0) : start], match.string[end : end + NEAR]
        if found(self.supposed, before):
            return False
        if found(self.caused, before) and not found(self.people, match.string[start : end + NEAR]):
            return False
        denied = found(self.denied, self._clause(before, after)) or self._denies_within(match)
        return not denied or found(self.undenied, after)

    def _denies_within(self, match: re.Match[str]) -> bool:
        """Whether a sign is denied between its parts ("a fever but no stiff neck"), and not by the pattern itself."""
        return found(self.denied_within, match.group()) and not found(self.denied_within, match.re.pattern)

    def _clause(self, before: str, after: str) -> str:
        """What stands before a sign, back to where a denial ends; past a comma only in a list ("no a, b or c")."""
        ends = [match.end() for pattern in self.denial_ends for match in pattern.finditer(before)]
        clause = before[max(ends, default=0) :]
        in_a_list = bool(_OR.search(after) or _OR.search(clause))
        return clause if in_a_list else clause.rpartition(",")[2]


def found(patterns: Patterns, text: str) -> bool:
    """Whether one of the patterns is anywhere in the text."""
    return any(pattern.search(text) for pattern in patterns)
