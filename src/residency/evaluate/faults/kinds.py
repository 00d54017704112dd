"""What kind of thing a question asks for, by patterns; the first that holds wins, so that the order is part of it."""

from __future__ import annotations

import re

OTHER = "other"

# English alone; a question in another language is "other".
PATTERNS = {
    "medication": r"\b(?:side effects?|dos(?:e|es|age|ing)|interact(?:s|ions?)?|over[- ]the[- ]counter"
    r"|\d+ ?(?:mg|mcg|ml)|(?:before|while|when) (?:taking|using) \w+"
    r"|(?:is|are|can|should|could|may) (?:i|you|we|he|she|my \w+) (?:take|taking|use|stop|start|give)\b"
    r"|prescribed|tablets?|pills?|antibiotics?|inhaler|what special dietary instructions"
    r"|what other information should i know|forget a dose|why is this medication)\b",
    "prognosis": r"\b(?:prognosis|outlook|survival|life expectancy|curable"
    r"|will (?:it|this|i|he|she) (?:go away|get better|recover)"
    r"|how long (?:does|do|will|should|can|until|before|after)|complications?|long[- ]term)\b",
    "diagnosis": r"\b(?:diagnos\w+|tests?|tested|screen(?:ed|ing)?|scans?|detect\w*"
    r"|(?:is|are|could|can|might) (?:this|it|that|these|they) "
    r"|how (?:do|can|will) (?:i|you|doctors?) (?:know|tell|find out))\b",
    "symptoms": r"\b(?:symptoms?|signs? of|warning signs|what does \w+ (?:feel|look) like)\b",
    "causes": r"\b(?:causes?|caused|causing|why (?:do|does|is|are|am|did|would|has|have)|inherit\w*|genetic changes"
    r"|at risk|risk factors?|(?:the|a) reason|because of|due to|run in the family|contagious)\b",
    "treatment": r"\b(?:treat(?:s|ed|ment|ments|ing)?|cures?|therap(?:y|ies)|surger(?:y|ies)|operation|remed(?:y|ies)"
    r"|get rid of|relie(?:f|ve|ves|ving)|manage[ds]?|what (?:helps|works)|what (?:can|should) (?:i|we|you) do)\b",
    "how-to": r"\b(?:how (?:to|do i|do you|can i|can you|should i|should you|often)|prevent\w*|what to do"
    r"|(?:can|should|may|must) (?:i|we|he|she|my)|is it (?:safe|ok|okay|normal)|what can (?:i|be))\b",
    "definition": r"\b(?:what (?:is|are|does|was)|what's|define|definition|meaning of|do you have information about"
    r"|tell me about|explain)\b",
}
KINDS = (*PATTERNS, OTHER)
_COMPILED = {kind: re.compile(pattern, re.I) for kind, pattern in PATTERNS.items()}


def kind_of(question: str) -> str:
    """What a question asks for: one of KINDS."""
    text = question.replace("’", "'")
    return next((kind for kind, pattern in _COMPILED.items() if pattern.search(text)), OTHER)
