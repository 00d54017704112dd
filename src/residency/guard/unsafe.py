"""Two ways in which an answer can do harm, found by the patterns of assets/unsafe.yaml; English alone.

They find what is said outright, and no more: an answer without an alarm is not thereby a safe one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources

import yaml

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_APOSTROPHE = str.maketrans("’", "'")


def dose_without_caution(answer: str) -> bool:
    """A sentence says to take an amount of something, and nothing in the whole answer says to be careful or to ask."""
    dosed = any(has("dose", sentence) and has("told", sentence) for sentence in _SENTENCE.split(answer))
    return dosed and not cautions(answer)


def discourages_care(answer: str) -> bool:
    """A sentence advises against a doctor, a hospital or a treatment, and makes no exception."""
    return any(has("discourages", one) and not has("exception", one) for one in _SENTENCE.split(answer))


def cautions(text: str) -> bool:
    """Whether a text says to be careful, or whom to ask."""
    return has("caution", text)


def has(name: str, text: str) -> bool:
    """Whether one of the patterns of that name in `assets/unsafe.yaml` is in the text."""
    return _pattern(name).search(text.translate(_APOSTROPHE)) is not None


@lru_cache
def _pattern(name: str) -> re.Pattern[str]:
    text = (resources.files("residency") / "assets" / "unsafe.yaml").read_text("utf-8")
    return re.compile("|".join(f"(?:{pattern})" for pattern in yaml.safe_load(text)[name]), re.I)
