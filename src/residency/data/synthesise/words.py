"""Words and sentences of a text, in scripts with and without blanks between words."""

from __future__ import annotations

import re

_SOLID = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # Japanese and Chinese: no blanks, so each character is a word
_WORD = re.compile(rf"[{_SOLID}]|[^\W{_SOLID}]+(?:['’-][^\W{_SOLID}]+)*")
_END = re.compile(r"[.!?…]+[\"'”’)\]*_]*\s+(?=[\"'“‘(\[*_¿¡]*[^\W_a-zß-öø-ÿ])|[。！？][」』”]*\s*")
_ABBREVIATIONS = frozenset(
    _WORD.findall(
        "approx art ca cf ch dept dr ed eds eg etc fig figs hon ie inc jr mr mrs ms no nos p pp prof resp sr st vol vs"
    )
)


def words(text: str) -> list[str]:
    """The text's words as they are written."""
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """The text's sentences, each with the white space after it, so that joined they are the text again.

    Where a full stop may belong to an abbreviation ("Dr. Smith", "e.g. Asthma"), the text is not cut.
    """
    found, start = [], 0
    for end in _END.finditer(text):
        if not _abbreviated(text[start : end.start() + 1]):
            found.append(text[start : end.end()])
            start = end.end()
    return [*found, text[start:]] if text[start:] or not found else found


def _abbreviated(sentence: str) -> bool:
    if not sentence.endswith("."):
        return False
    last = sentence[:-1].rsplit(None, 1)[-1:] or [""]
    word = last[0].lstrip("([\"'“‘")
    return word.lower() in _ABBREVIATIONS or bool(re.fullmatch(r"(?:[^\W\d_]\.)*[^\W\d_]", word))
