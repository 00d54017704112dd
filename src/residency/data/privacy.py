"""E-mail addresses and phone numbers become placeholders; they are counted and never shown."""

from __future__ import annotations

import re
from collections import Counter

import polars as pl

EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
DATE = r"(?:19|20)\d\d-\d\d?-\d\d?|\d\d?(?P<sep>[.-])\d\d?(?P=sep)(?:19|20)\d\d"
# Nine to fifteen digits. A date is matched first, so that it neither counts as one nor hides the phone beside it.
PHONE = re.compile(rf"(?<![\w.,/-])(?:(?P<date>{DATE})|(?P<phone>\+?\(?\d(?:[ ().-]{{0,3}}\d){{8,14}}))(?![\w/-])")
_DIALLED = re.compile(r"\+|0\d|\(\d+\)")
_YEAR_OR_ROUND = re.compile(r"(?:19|20)\d\d|\d+0")


def redact(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Replace personal data in question, answer and context; returns the rows and the number of each kind replaced."""
    counts: Counter[str] = Counter()
    for column in ("question", "answer", "context"):
        if column in rows.columns:
            # The regular expressions are Python's; only the rows that can match are handed to them.
            hit = rows[column].str.contains(r"@|\d[\d ().-]{7,}\d")
            if hit.any():
                texts = [
                    _redact(text, counts) if maybe else text for text, maybe in zip(rows[column], hit, strict=True)
                ]
                rows = rows.with_columns(pl.Series(column, texts, dtype=pl.String))
    return rows, {"email": counts["email"], "phone": counts["phone"]}


def _redact(text: str, counts: Counter[str]) -> str:
    text, emails = EMAIL.subn("[EMAIL]", text)
    counts["email"] += emails

    def phone(match: re.Match[str]) -> str:
        if match["date"] or not _is_phone(match["phone"]):
            return match[0]
        counts["phone"] += 1
        return "[PHONE]"

    return PHONE.sub(phone, text)


def _is_phone(number: str) -> bool:
    """Whether so many digits are a phone number, and not doses, years, decimals or a range of laboratory values."""
    groups = re.findall(r"\d+", number)
    if len(groups) == 1 or _DIALLED.match(number):
        return True
    decimals = "." in number and " " in number
    series = max(map(len, groups)) < 3 or (len(groups) > 3 and {len(group) for group in groups} == {3})
    return not (decimals or series or all(map(_YEAR_OR_ROUND.fullmatch, groups)))
