"""Pairs that a document already holds: headings with their text, FAQs, glossaries."""

from __future__ import annotations

from collections.abc import Iterator

from residency.data.synthesise import wording
from residency.data.synthesise.glossary import Glossary, glossary
from residency.data.synthesise.pairs import Pair
from residency.data.synthesise.passages import Document, Passage
from residency.data.synthesise.wording import Wording

FEWEST = 2  # entries that make a glossary of a text whose heading doesn't say that it is one
SHARE = 0.75  # of its items that they are


def pairs(document: Document) -> Iterator[Pair]:
    """The pairs in a document, in order.

    A section longer than a passage is answered by its first passage; a heading that asks nothing
    is a pair with a fault.
    """
    own = Wording.of(passage.text for passage in document.passages)
    for passage in document.passages:
        found = glossary(passage.text)
        terms = found.entries if _is_glossary(found, passage) else ()
        only_terms = terms and passage.headings and wording.is_common(passage.headings[-1], wording.GLOSSARY)
        if passage.headings and passage.part == 0 and not only_terms:
            asked, fault = wording.question(passage.headings, passage.text, own)
            yield Pair(passage, asked, passage.text.strip(), fault)
        for term, text in terms:
            yield Pair(passage, own.meaning(term), text)


def _is_glossary(found: Glossary, passage: Passage) -> bool:
    named = bool(passage.headings) and wording.is_common(passage.headings[-1], wording.GLOSSARY)
    return found.listed or named or (len(found.entries) >= FEWEST and found.share >= SHARE)
