"""The finders in the order in which they look: what one has found, or what is kept, is hidden from those after it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from stdnum import iban, luhn

from residency.data.privacy import ids, kept, phones
from residency.data.privacy.births import BIRTH_DATE
from residency.data.privacy.finder import EDGE, END, Finder, Span, compact, shaped

EMAIL = r"\b[\w.+%-]{1,64}@(?:[\w-]{1,63}\.)+[^\W\d_]{2,24}\b(?!@)"

_OF_A_USER = re.compile(
    r"(?i)//[^/?#@\s]+@|/~\w|linkedin\.com/in/\w|\b(?:wa|t)\.me/\+?\w"
    r"|[?&;](?:user(?:_?name|_?id)?|usr|login|e?mail|patient(?:_?id)?|phone|tel|mobile)=[^&#\s]|/(?:users?|u|profiles?)/"
    r"(?!(?:(?:log|sign)-?(?:in|out|up)|register|password|settings|new|help|guide|me|index|search|manual|default)\b)\w"
)
_IBAN = re.compile(r"(?i)\b[a-z]{2}\d\d(?:[ -]?[a-z0-9]{4}){2,7}(?:[ -]?[a-z0-9]{1,3})?\b")
_CARD = (  # Visa, Mastercard, Discover and JCB; American Express and Diners; old Visa
    r"(?:4\d{3}|5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720|6(?:011|[25]\d\d|4[4-9]\d)|35[2-8]\d)"
    r"(?P<g>[ -]?)\d{4}(?:(?P=g)\d{4}){2}(?:(?P=g)\d{3})?"
    r"|3(?:[4678]\d|0[0-5])\d(?P<by>[ -]?)\d{6}(?P=by)\d{4,5}"
    r"|4\d{12}"
)


def _is_of_a_user(address: str) -> bool:
    """Whether a web address names somebody; all others are public."""
    return bool(_OF_A_USER.search(address))


def _is_ip(value: str) -> bool:
    try:
        ip_address(value)
    except ValueError:
        return False
    # 1.2.3.4 is a section, and 12::30 somebody's way to write a time.
    return len(re.findall(r"\d", value)) > 4 if "." in value else len(re.findall(r"[0-9A-Fa-f]+", value)) > 2


def _ibans(text: str) -> Iterator[Span]:
    """Each country has its own length, and a word that follows looks like a part: the longest that is valid counts."""
    at = 0
    while match := _IBAN.search(text, at):
        ends = [match.start() + word.end() for word in re.finditer(r"\b[a-zA-Z0-9]+", match[0])]
        end = next((end for end in reversed(ends) if iban.is_valid(text[match.start() : end])), 0)
        if end:
            yield match.start(), end
        at = end or match.start() + 1


FINDERS: tuple[Finder, ...] = (
    shaped(
        "url",
        r"(?i:[/?&;](?:~|users?/|u/|profiles?/|in/|[a-z_]{2,10}=)|\b(?:wa|t)\.me/|//[^/?#@\s]+@)",
        rf"(?i)(?<![\w@]){kept.URL}",
        _is_of_a_user,
    ),
    shaped("email", "@", EMAIL),
    kept.SECTIONS,
    shaped("ip_address", r"\d\.\d{1,3}\.\d{1,3}\.\d", rf"{EDGE}\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?!\w|\.\d)", _is_ip),
    shaped(
        "ip_address",
        r"[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:|::[0-9A-Fa-f]",
        r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])",
        _is_ip,
    ),
    BIRTH_DATE,
    Finder("iban", r"\b[A-Za-z]{2}\d\d(?:\W?[0-9A-Za-z]{4}){2}", _ibans),
    *kept.NUMBERS,
    shaped("credit_card", r"\d(?:\W?\d){12}", f"{EDGE}(?:{_CARD}){END}", lambda number: luhn.is_valid(compact(number))),
    *ids.FINDERS,
    phones.PHONE,
)
