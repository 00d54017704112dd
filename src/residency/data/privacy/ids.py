"""National identity numbers, each held to its check digit; python-stdnum knows how they are made.

A number whose shape and check digit say too little counts only after a word that says what it is.
"""

from __future__ import annotations

from collections.abc import Callable

from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.us import ssn

from residency.data.privacy.finder import EDGE, END, Finder, compact, is_counted, shaped


def _by_shape(hint: str, shape: str, is_valid: Callable[[str], bool]) -> Finder:
    return shaped("national_id", hint, f"{EDGE}(?:{shape}){END}", lambda number: is_valid(compact(number)))


def _by_word(words: str, shape: str, is_valid: Callable[[str], bool]) -> Finder:
    hint, shape = rf"(?i:\b(?:{words}))", f"{EDGE}(?:{shape}){END}"
    return shaped("national_id", hint, shape, lambda number: is_valid(compact(number)), words)


def _spanish(number: str) -> bool:
    return dni.is_valid(number) or nie.is_valid(number)


def _indian(number: str) -> bool:
    return aadhaar.is_valid(number) and not is_counted(number)


UNITED_STATES = (
    _by_shape(r"\d{3}\W\d\d\W\d{4}", r"\d{3}-\d\d-\d{4}", ssn.is_valid),
    _by_word("ssn|social security", r"\d{3} ?\d\d ?\d{4}", ssn.is_valid),
)
UNITED_KINGDOM = (
    _by_word("nhs|national health", r"\d{3}([ -]?)\d{3}\1\d{4}", nhs.is_valid),
    # The National Insurance number has no check digit, but letters that are never given out.
    _by_shape(
        r"[A-Z]{2}\W?\d\d\W?\d\d\W?\d\d\W?[A-D]",
        r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]( ?)\d\d\1\d\d\1\d\d\1[A-D]",
        bool,
    ),
)
GERMANY = (_by_word("steuer|idnr|identifikationsnummer|tax", r"[1-9]\d ?\d{3} ?\d{3} ?\d{3}", idnr.is_valid),)
FRANCE = (
    _by_shape(
        r"[12]\W?\d\d\W?\d\d\W?\d[\dAB]\W?\d{3}\W?\d{3}\W?\d\d",
        r"[12] ?\d\d ?\d\d ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d",  # A and B: Corsica
        nir.is_valid,
    ),
)
SPAIN = (
    _by_shape(
        r"\d\d\.?\d{3}\.?\d{3}\W?[A-Za-z]\b|\b[XYZxyz]\W?\d{7}",
        r"(?i:\d\d\.?\d{3}\.?\d{3}[ -]?[a-z]|[xyz]-?\d{7}-?[a-z])",
        _spanish,
    ),
)
ITALY = (
    _by_shape(
        r"(?i:\b[a-z]{6}[0-9l-v]{2}[a-z][0-9l-v]{2}[a-z][0-9l-v]{3}[a-z]\b)",
        r"(?i:[a-z]{6}[0-9l-v]{2}[a-ehlmprst][0-9l-v]{2}[a-z][0-9l-v]{3}[a-z])",
        codicefiscale.is_valid,
    ),
)
NETHERLANDS = (_by_word("bsn|burgerservice|sofi", r"\d{9}|\d{4}[ .]\d\d[ .]\d{3}", bsn.is_valid),)
INDIA = (
    shaped("national_id", r"\d{4}\W\d{4}\W\d{4}", rf"{EDGE}[2-9]\d{{3}}([ -])\d{{4}}\1\d{{4}}{END}", _indian),
    _by_word("aadhaa?r|adhar|uidai|uid", r"[2-9]\d{11}", aadhaar.is_valid),
)
FINDERS = (
    *UNITED_STATES,
    *UNITED_KINGDOM,
    *GERMANY,
    *FRANCE,
    *SPAIN,
    *ITALY,
    *NETHERLANDS,
    *INDIA,
)
