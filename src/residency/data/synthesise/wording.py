"""How a heading is asked for: `Symptoms` under `Asthma` becomes `What are the symptoms of asthma?`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from residency.data.synthesise.lines import NUMBERED
from residency.data.synthesise.words import words

NO_TOPIC = "common heading without a topic"
NO_QUESTION = "heading of references, contents or the like"

_TEMPLATES = {
    "symptoms|symptom|signs|signs and symptoms|clinical features": "What are the symptoms of {x}?",
    "cause|causes|etiology|aetiology": "What causes {x}?",
    "treatment|treatments|therapy|management|treatment and management": "How {is} {x} treated?",
    "treatment options|therapies": "What are the treatment options for {x}?",
    "diagnosis|tests|diagnosis and tests|tests and diagnosis": "How {is} {x} diagnosed?",
    "prevention|preventing|prophylaxis": "How can {x} be prevented?",
    "risk factors|risks|risk": "What are the risk factors for {x}?",
    "complications": "What are the complications of {x}?",
    "prognosis|outlook": "What is the outlook for {x}?",
    "side effects|adverse effects|adverse reactions": "What are the side effects of {x}?",
    "dosage|dose|dosing|doses": "What is the dosage of {x}?",
    "uses|indications|use|usage": "What {is} {x} used for?",
    "contraindications": "What are the contraindications of {x}?",
    "interactions|drug interactions": "What does {x} interact with?",
    "precautions|warnings|warnings and precautions|safety": "What are the precautions with {x}?",
    "when to see a doctor|when to get medical help|when to seek help": "When should I see a doctor about {x}?",
    "overview|introduction|definition|about|summary|description|background|general|what it is": "What {is} {x}?",
    "types|kinds|classification|forms": "What types of {x} are there?",
    "examples|example": "What are examples of {x}?",
    "benefits|advantages|pros": "What are the benefits of {x}?",
    "disadvantages|drawbacks|cons": "What are the drawbacks of {x}?",
    "limitations|limits": "What are the limitations of {x}?",
    "requirements|prerequisites": "What are the requirements for {x}?",
    "eligibility|who is eligible": "Who is eligible for {x}?",
    "installation|installing|install": "How {is} {x} installed?",
    "configuration|settings": "How {is} {x} configured?",
    "features": "What are the features of {x}?",
    "components|parts|structure": "What are the parts of {x}?",
    "history": "What is the history of {x}?",
    "purpose|aim|aims|goals": "What is the purpose of {x}?",
    "cost|costs|price|prices|pricing|fees": "What does {x} cost?",
    "epidemiology|prevalence|frequency": "How common {is} {x}?",
    "troubleshooting|common problems": "How are problems with {x} solved?",
}
COMMON = {name: template for names, template in _TEMPLATES.items() for name in names.split("|")}
SKIPPED = frozenset(
    words(
        "acknowledgements appendix authors bibliography changelog contents copyright credits disclaimer footnotes "
        "index links license licence notes references sources"
    )
) | {"contact us", "external links", "further reading", "read more", "related topics", "see also", "table of contents"}
GLOSSARY = frozenset(["abbreviations", "definitions", "glossary", "key terms", "terminology", "terms"])
FAQ = frozenset(["faq", "faqs", "frequently asked questions", "questions", "questions and answers", "q&a"])
STARTS = {  # statements that are half a question
    r"how to (.+)": "How do I {0}?",
    r"when to (.+)": "When should I {0}?",
    r"what to (.+)": "What should I {0}?",
    r"where to (.+)": "Where can I {0}?",
    r"((?:what|who|when|where|why|how|which) (?:is|are|was|were|do|does|did|can|should|will|would|may) .+)": "{0}?",
    r"((?:how (?:long|many|much|often|common)|who (?:should|can|needs)) .+)": "{0}?",
}
_WHAT_IS = re.compile(r"what (?:is|are) (?:(?:an?|the) )?(.+?)\??", re.IGNORECASE)
_SUBJECT = re.compile(r"(?:^|[.!?]\s+|\n\s*)(?:(?:the|an?) )?((?:[\w'’-]+ ){0,3}[\w'’-]+) (is|are)\b", re.IGNORECASE)
_AFTER_A_NOUN = r"(?=[.,;:)!?]| (?:and|are|can|for|has|if|in|is|may|on|or|that|to|was|when|which|will|with)\b)"
_SINGULAR = re.compile(r"(?:[^s]|ss|us|is|ics|diabetes|herpes|hives|measles|mumps|rabies|rickets|scabies|shingles)$")
_SMALL_AT_START = re.compile(
    r"(?:[a-z]+ing|an?|after|and|before|for|from|in|of|on|our|the|to|with|your)", re.IGNORECASE
)


@dataclass(frozen=True)
class Wording:
    """How a document itself writes its words: those in small letters, and its sentences' subjects with their verbs."""

    text: str
    small: frozenset[str]
    verbs: dict[str, str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Wording:
        """The wording of a document's passages."""
        text = "\n".join(texts)
        small = frozenset(word for word in words(text) if word.islower())
        verbs = {subject.lower(): verb.lower() for subject, verb in _SUBJECT.findall(text)}
        return cls(text.lower(), small, verbs)

    def written(self, name: str) -> str:
        """A heading as it would stand in a sentence: a word gets a small letter where the text writes it with one."""
        first, blank, rest = name.partition(" ")
        first = first.lower() if blank and _SMALL_AT_START.fullmatch(first) else first
        return re.sub(r"[^\W\d_][\w'’-]*", lambda word: self._small(word[0]), first + blank + rest)

    def verb(self, name: str) -> str:
        """`is` or `are`, whichever the text puts after the name; where it puts none, by the name's ending."""
        last = name.lower().rpartition(" ")[2]
        return self.verbs.get(name.lower()) or ("is" if _SINGULAR.search(last) else "are")

    def meaning(self, term: str) -> str:
        """The question for a term's meaning, with the article or the verb that the text has for it."""
        if term.isupper() and len(term) > 1:
            return f"What does {term} mean?"
        name = term.lower()
        article = (
            re.search(rf"\b(an?) {re.escape(name)}{_AFTER_A_NOUN}", self.text) if f" {name}" in self.text else None
        )
        if article:
            return f"What is {article[1]} {self.written(term)}?"
        if name in self.verbs:
            return f"What {self.verbs[name]} {self.written(term)}?"
        return f'What does "{self.written(term)}" mean?'

    def _small(self, word: str) -> str:
        return word.lower() if word.lower() in self.small else word


def question(headings: tuple[str, ...], text: str, wording: Wording) -> tuple[str, str]:
    """The question that the last heading asks of the text below it, or an empty one and why there is none.

    Where no form fits, it is `What should I know about ...?`, with the title where there is one.
    """
    own = _plain(headings[-1])
    key = own.lower()
    if headings[-1].rstrip().endswith(("?", "？", "؟")):
        return NUMBERED.sub("", headings[-1]), ""
    if key in SKIPPED:
        return "", NO_QUESTION
    topic = _topic(headings[:-1], wording)
    if key in COMMON and topic:
        return COMMON[key].format(x=topic, **{"is": wording.verb(topic)}), ""
    for form, asked in STARTS.items():
        if found := re.fullmatch(form, own, re.IGNORECASE):
            return _capital(asked.format(wording.written(found[1]))), ""
    if key in COMMON:
        return "", NO_TOPIC
    return _defined(own, text, wording) or _general(own, topic, wording), ""


def is_common(heading: str, *kinds: Iterable[str]) -> bool:
    """Whether a heading, number and marks aside, is one of the given kinds of names."""
    return any(_plain(heading).lower() in kind for kind in kinds)


def _topic(above: tuple[str, ...], wording: Wording) -> str:
    """The nearest heading above that names a thing, as the text writes it; empty where none does."""
    for heading in reversed(above):
        asked = _WHAT_IS.fullmatch(_plain(heading))
        if asked or not (heading.endswith("?") or is_common(heading, COMMON, SKIPPED, GLOSSARY, FAQ)):
            return wording.written(asked[1] if asked else _plain(heading))
    return ""


def _defined(name: str, text: str, wording: Wording) -> str:
    """`What is a stroke?` where the text begins with `A stroke is`; else empty."""
    begins = re.compile(rf"\W*((?:an?|the) )?{re.escape(name)}\W*\s(is|are)\b", re.IGNORECASE).match(text)
    if not begins:
        return ""
    return f"What {begins[2].lower()} {(begins[1] or '').lower()}{wording.written(name)}?"


def _general(name: str, topic: str, wording: Wording) -> str:
    own = wording.written(name)
    about = own if not topic or topic.lower() in own.lower() else f"{topic}: {own}"
    return f"What should I know about {about}?"


def _plain(heading: str) -> str:
    return NUMBERED.sub("", heading).strip().rstrip(":.!").strip()


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
