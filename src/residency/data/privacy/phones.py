"""Phone numbers of any country, among doses, results, years and codes.

Digits with only blanks, dots, dashes and brackets between them are a run. It is cut into words, and from the left as
many words as make one number are taken. What makes a number: a dialling code, a shape that is known, or a word like
"call" before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from residency.data.privacy.finder import Finder, Span, before, is_counted

LONGEST = 15  # digits (ITU-T E.164)
MOST_WORDS = 7

_RUN = re.compile(
    r"(?<![\w+$€£₹])(?<!\d[.-])"  # not within a word, a sum of money, a decimal or a range
    r"(?:\+ ?)?\(?\+?\d(?:[ ().-]{0,3}\d){6,}"
    r"(?!\w|-\w{1,2}\b)"
)
_SHORT = re.compile(r"\b\d{1,3}[,:/]$")  # 1,234567890 and 120/80: the rest of another number
_DIALLED = re.compile(r"\(?\+|\(?0\d|(?:\d{1,3}[ -]?)?\((?!(?:19|20)\d\d\))\d{2,5}\)")  # (2019) is a year
_KNOWN = re.compile(  # North America; India; China and others with a 1; India's 91; Russia's 8; unbroken
    r"(1 )?\d{3} \d{3} \d{4}|(91 )?\d{5} \d{5}|1\d\d( \d{4}){2}|91 \d{10}|8( \d{3}){2}( \d\d){2}|\d{9,12}"
)
_LOCAL = re.compile(r"\d{7,8}|\d{3,4}[ .-]+\d{4}")
_CALL = (
    r"\b(?:call(?:s|ed|ing)?|ring|rang|dial|(?:tele)?phone|ph|tel|mob(?:ile)?|fax|whats ?app|sms|tty|contact|hotline|"
    r"helpline|appel\w*|téléphone|tél|portable|anruf\w*|telefon\w*|teléfono|ll[aá]m\w+|móvil|chiam\w+|cellulare)\b"
)
_ASKED = re.compile(f"(?i){_CALL}")
_JUST_ASKED = re.compile(rf"(?i){_CALL}\W{{0,3}}(?:[^\W\d]{{1,6}}\W{{1,2}}){{0,2}}$")
_UNIT = re.compile(
    r"(?i) ?(?:%|[mµuk]?g|mcg|[mdµu]?l|i?u|units?|[mµu]?mol|mm|cm|cells?|copies|cfu|k?cal|calories|bpm|mmhg|per|steps|"
    r"platelets|people|persons|patients|years?|months?|weeks?|days?|hours?|minutes?|pounds|lbs?|dollars|euros?)(?!\w)"
)


@dataclass(frozen=True)
class Words:
    """The words of a run from some place on, as what the first 1, 2, 3 of them make together."""

    numbers: list[str]
    count: int  # of all words that are left
    alone: bool  # whether nothing but numbers stands before them in the run
    asked: bool  # whether a word like "call" stands before the run
    just_asked: bool

    @property
    def phone(self) -> int:
        """How many of the words are a phone number; 0 where they begin with none."""
        return self._dialled() or self._known() or (self._any() if self.asked else 0) or self._local()

    def _dialled(self) -> int:
        """With a dialling code: as few words as make a whole number, so that what follows it stays."""
        if not _DIALLED.match(self.numbers[-1]):
            return 0
        whole, least = (11, 8) if "+" in self.numbers[0] else (13, 10) if self.numbers[0].startswith("00") else (10, 9)
        lengths = [_length(number) for number in self.numbers]
        size = next((size for size, length in enumerate(lengths, start=1) if length >= whole), len(lengths))
        free = self.alone or self.asked or size == 1
        return size if least <= lengths[size - 1] <= LONGEST and _is_dialled(self.numbers[size - 1], free) else 0

    def _known(self) -> int:
        """Of a known shape: one word, or equal parts of the run; else it is a part of a list of values."""
        for size in range(len(self.numbers), 0, -1):
            number = self.numbers[size - 1]
            whole = self.asked or size == 1 or self.count % size == 0
            if whole and _is_plain(number) and " - " not in number and _KNOWN.fullmatch(" ".join(_groups(number))):
                return size
        return 0

    def _any(self) -> int:
        sizes = range(len(self.numbers), 0, -1)
        return next((size for size in sizes if _is_plain(self.numbers[size - 1], least_group=3)), 0)

    def _local(self) -> int:
        """Seven or eight digits, which only a word just before them makes a number."""
        if not (self.alone and self.just_asked):
            return 0
        local = [bool(_LOCAL.fullmatch(number)) and not is_counted(number) for number in self.numbers]
        return local.index(True) + 1 if any(local) else 0


def phones(text: str) -> Iterator[Span]:
    """Start and end of each phone number; lists of doses, results or years hold none."""
    at, taken = 0, -1
    while run := _RUN.search(text, at):
        start = run.start()
        if start != taken + 1 and _SHORT.search(text, max(0, start - 5), start):
            at = start + 1
            continue
        at = run.end()
        for span in _of_run(text, start, at):
            yield span
            taken = span[1]


def _of_run(text: str, start: int, end: int) -> Iterator[Span]:
    run, said, alone = text[start:end], before(text, start), True
    asked, just_asked = bool(_ASKED.search(said)), bool(_JUST_ASKED.search(said))
    words = [word.span() for word in re.finditer(r"\S*\d\S*", run)]
    if _UNIT.match(text, end) and "+" not in run and not asked:  # the last word is an amount, or the whole range is
        words = [] if " - " in run else words[:-1]
    place = 0
    while place < len(words):
        first = words[place][0]
        numbers = [run[first:last] for _, last in words[place : place + MOST_WORDS]]
        size = Words(numbers, len(words) - place, alone, asked, just_asked).phone
        if size:
            opened = numbers[size - 1].startswith("(") and ")" not in numbers[size - 1]
            yield start + first + opened, start + words[place + size - 1][1]
        place, alone = place + (size or 1), size > 0


def _is_dialled(number: str, free: bool) -> bool:
    """Whether a number that begins as phone numbers do is no list of times, decimals or counted things."""
    groups = _groups(number)
    pairs = max(map(len, groups)) < 3 and [*map(len, groups)] != [2] * 5  # 01 23 45 67 89 is French
    zeros = len(groups) > 1 and all(group[0] == "0" for group in groups[:2] + groups[-1:])
    round_ones = number[0] == "(" and is_counted(number)
    return "+" in number or (free and not (pairs or zeros or round_ones or ("." in number and " " in number)))


def _is_plain(number: str, least_group: int = 0) -> bool:
    """Whether digits without a dialling code are as many as a number has, and no list of values."""
    groups = _groups(number)
    decimals = "." in number and (" " in number or len(groups) == 2)
    listed = decimals or number.endswith("0000") or is_counted(number)
    return 9 <= _length(number) <= LONGEST and max(map(len, groups)) >= least_group and not listed


def _length(number: str) -> int:
    return sum(map(str.isdigit, number))


def _groups(number: str) -> list[str]:
    return re.findall(r"\d+", number)


PHONE = Finder("phone", r"\d(?:[\s().\p{Pd}\x{2212}]{0,3}\d){6}", phones)
