"""What looks like personal data and is none: records are full of it. It stays, and no number is looked for in it."""

from __future__ import annotations

from residency.data.privacy.finder import Finder, shaped

URL = r"(?:[a-z][a-z0-9+.-]{1,10}://|www\.|(?:[\w-]{1,63}\.){1,5}[a-z]{2,24}/)[^\s<>\"\0]*[^\s<>\".,;:!?)\]}'\0]"
_CODES = "ISSN|NDC|SNOMED(?: ?CT)?|LOINC|O?MIM|PMID|PMC|CAS|GTIN|EAN|UPC|ORCID|RxCUI|ICD-?\\d*|NCT|ISRCTN"


def _kept(hint: str, shape: str) -> Finder:
    return shaped("", hint, shape)


# 10.2.3.40 is an address, "version 10.2.3.40" is none.
SECTIONS = _kept(r"\d\.\d", r"(?i)\b(?:ec|version|v|section|release|chapter|figure|table)\W{0,2}\d+(?:\.\d+)+")

WEB_ADDRESSES = _kept(r"://|(?i:www)\.|\.[A-Za-z]{2,24}/", rf"(?i)\b{URL}")

PUBLICATIONS = _kept(
    r"\b10\.\d{4,9}/|(?i:isbn)|97[89]\W?\d",
    r"(?i)\b10\.\d{4,9}/\S+|\bISBN(?:-1[03])?\W{0,3}(?:97[89][ -]?)?(?:\d[ -]?){9}[\dX]|\b97[89](?:[ -]?\d){10}\b",
)

NAMED_CODES = _kept(
    rf"(?i:\b(?:{_CODES}))", rf"(?i)\b(?:{_CODES})(?: (?:code|number|no\.?|id))?\W{{0,3}}\d+(?:[./-]\d+)*"
)

# Of the United States: MD 20892-3655.
POSTCODES = _kept(r"[A-Z]{2},? \d{5}", r"\b[A-Z]{2},? \d{5}-\d{4}\b|, [A-Z]{2} \d{9}\b")

# Drug codes (NDC), in the three ways that they are written.
DRUGS = _kept(r"\d{4}\W\d{3,4}\W\d", r"(?<![\w-])(?:\d{5}-\d{4}-\d{1,2}|\d{4}-\d{4}-\d{2}|\d{5}-\d{3}-\d{2})(?![\w-])")

DATES = _kept(
    r"\d\W\d\d?\W\d",
    r"(?<![\w.+-])(?:(?:19|20)\d\d-\d\d?-\d\d?|\d\d?(?P<sep>[./-])\d\d?(?P=sep)(?:(?:19|20)\d\d|\d\d))(?![\w-]|\.\d)",
)

# 1,234,567 and 12,34,567.
LARGE_NUMBERS = _kept(r"\d,\d", r"(?<![\w.,+-])(?<!\d )\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d+)?(?!,?\d)")

# 5 000 - 10 000.
RANGES = _kept(
    r"\d\s\d{3}\D{1,5}\d",
    r"(?i)(?<![\w.,+-])(?<!\d )[1-9](?:\d{0,2}| \d{3}) \d{3} ?(?:-|to|and) ?[1-9](?:\d{0,2}|\d? \d{3}) \d{3}(?![\w-])",
)

NUMBERS = (WEB_ADDRESSES, PUBLICATIONS, NAMED_CODES, POSTCODES, DRUGS, DATES, LARGE_NUMBERS, RANGES)
