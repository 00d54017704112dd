"""A pair that was read or written, and what can be wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from residency.data.synthesise.passages import Passage
from residency.data.synthesise.words import words

SHORTEST = 3  # words of a question or an answer
LONGEST_QUESTION = 60  # words
SHORT_ANSWER = 40  # words that an answer may have even where its passage has fewer

_LIST_MARK = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
_LEANS = re.compile(
    r"\b(?:the|this) (?:passage|text|excerpt|document|article)\b|\b(?:above|following) (?:passage|text)\b",
    re.IGNORECASE,
)
_ENDING = re.compile(r"(?:ings?|edly|ed|e?s|ly|e)$")
_NUMBERS = {name: str(n) for n, name in enumerate(words("zero one two three four five six seven eight nine ten"))}
_FUNCTION_WORDS = frozenset(
    words(
        "a about after all also an and any are as at be been before being but by can could did do does for from had "
        "has have he her his how i if in into is it its many may me might more most my no not of on one only or other "
        "our she should so some such than that the their them then there these they this those to under up was we "
        "were what when where which while who why will with would yes you your"
    )
)


@dataclass(frozen=True)
class Pair:
    """A question and its answer from a passage; `fault` says why it is none to learn from, and is empty if it is."""

    passage: Passage
    question: str
    answer: str
    fault: str = ""


def checked(pair: Pair, grounded: float) -> Pair:
    """The pair with its fault, if any. `grounded` is the least share of the answer's words that its passage has."""
    return pair if pair.fault else replace(pair, fault=_form(pair) or _grounding(pair, grounded))


def _form(pair: Pair) -> str:
    question, answer = len(words(pair.question)), len(words(pair.answer))
    if not _is_text(pair.question + pair.answer):
        return "characters that are no text"
    if not pair.question.rstrip().endswith(("?", "？", "؟")):
        return "question without a question mark"
    if not SHORTEST <= question <= LONGEST_QUESTION:
        return "question too short" if question < SHORTEST else "question too long"
    if answer < SHORTEST:
        return "answer too short"
    if answer > max(len(words(pair.passage.text)), SHORT_ANSWER):
        return "answer longer than its passage"
    return "question about the text itself" if _LEANS.search(pair.question) else ""


def _grounding(pair: Pair, least: float) -> str:
    answer = _LIST_MARK.sub("", pair.answer)
    has, numbers = _evidence(pair.passage)
    if not _digits(answer) | (_spelt(answer) - {"1"}) <= numbers:  # "one of them" counts nothing
        return "answer with a number that its passage does not have"
    content = [stem for word in words(answer) if (stem := _stem(word))]
    held = sum(stem in has for stem in content)
    return "" if held >= least * max(len(content), 1) else "answer not grounded in its passage"


@lru_cache(maxsize=256)
def _evidence(passage: Passage) -> tuple[frozenset[str], frozenset[str]]:
    text = " ".join([*passage.headings, passage.text])
    return frozenset(_stem(word) for word in words(text)), frozenset(_digits(text) | _spelt(text))


def _digits(text: str) -> set[str]:
    return {re.sub(r",(?=\d{3}\b)", "", number) for number in re.findall(r"\d+(?:[.,]\d+)*", text)}


def _spelt(text: str) -> set[str]:
    """The numbers that are written as words, as digits."""
    return {_NUMBERS[word] for word in map(str.lower, words(text)) if word in _NUMBERS}


def _stem(word: str) -> str:
    """A word without the commonest English endings, a number as digits; empty for a function word."""
    lowered = re.sub(r"['’]s$", "", word.lower())
    if lowered in _FUNCTION_WORDS:
        return ""
    return _NUMBERS.get(lowered) or (_ENDING.sub("", lowered) if len(lowered) > 3 else lowered)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half an emoji is valid JSON, but no text
        return False
    return True
