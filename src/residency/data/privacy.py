"""E-mail addresses and phone numbers become placeholders; they are counted and never shown."""

from __future__ import annotations

import re
from collections import Counter

import polars as pl

EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
PHONE = re.compile(r"(?<![\w.,/-])\+?\(?\d[\d ().-]{7,}\d(?![\w/-])")
PHONE_DIGITS = range(9, 16)


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
        if sum(c.isdigit() for c in match[0]) not in PHONE_DIGITS:
            return match[0]
        counts["phone"] += 1
        return "[PHONE]"

    return PHONE.sub(phone, text)
