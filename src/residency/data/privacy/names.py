"""People's names, through presidio and a spaCy model that is installed: the extra `residency[names]`."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from residency.data.privacy.finder import Span
from residency.errors import UserError, listed

BATCH = 64  # texts that spaCy reads at once
_TITLES = {"mr", "mrs", "ms", "miss", "dr", "prof"}
_TITLE = re.compile(rf"(?i)\b(?:{'|'.join(_TITLES)})\.? $")
_OF_DISEASE = re.compile(
    r"(?i)(?:['’]s?)?[\s-]+(?:\w+[\s-]+){0,2}?(?:disease|syndrome|disorder|deficiency|palsy|ataxia|dystrophy|"
    r"an(?:a)?emia|tumou?r|lymphoma|sarcoma|cancer|gene|sign|reflex|test|scale|score|criteria|procedure|therapy)"
)


def people(texts: Sequence[str], model: bool | str) -> list[list[Span]]:
    """Where people's names stand, by text. `model` is the name or folder of a spaCy model; True takes one there is.

    Raises:
        UserError: presidio-analyzer or the model is not installed.
    """
    found = _analyzer(model).analyze_iterator(texts, "en", batch_size=BATCH, entities=["PERSON"])
    words = {word for text in texts for word in re.findall(r"\b[^\W\d_A-Z]+\b", text)}
    return [
        sorted((hit.start, hit.end) for hit in hits if _is_name(text, hit.start, hit.end, words))
        for text, hits in zip(texts, found, strict=True)
    ]


def _is_name(text: str, start: int, end: int, words: set[str]) -> bool:
    """Models take diseases and drugs for people: a word of other texts, an abbreviation, a disease's name are none."""
    if _TITLE.search(text, max(0, start - 6), start):
        return True
    named = re.findall(r"\w+", text[start:end])
    odd = any(not word.isalpha() or (word.isupper() and len(word) > 1) for word in named)
    return not (odd or (words | _TITLES).issuperset(map(str.lower, named)) or _OF_DISEASE.match(text, end))


def _analyzer(model: bool | str) -> Any:
    try:
        presidio, spacy = import_module("presidio_analyzer"), import_module("spacy")
    except ImportError:
        raise UserError(
            "data.names: presidio-analyzer is not installed", fix="pip install 'residency[names]'"
        ) from None
    name = _installed(model, spacy.util.get_installed_models())
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it warns at each number and place in a text
    engine = presidio.nlp_engine.SpacyNlpEngine([{"lang_code": "en", "model_name": name}])  # "en" is only a key here
    recognizer = presidio.predefined_recognizers.SpacyRecognizer(supported_entities=["PERSON"])
    registry = presidio.RecognizerRegistry([recognizer])
    return presidio.BatchAnalyzerEngine(presidio.AnalyzerEngine(registry, engine, supported_languages=["en"]))


def _installed(model: bool | str, there: Sequence[str]) -> str:
    """The model that is meant; presidio would download one that is not there."""
    first = min(there, key=lambda name: (not name.startswith("en_"), name), default="")
    name = model if isinstance(model, str) else first
    if name in there or (name and Path(name).is_dir()):
        return name
    raise UserError(
        f"data.names: {name or 'a spaCy model'} is not installed",
        listed(there) or "a spaCy model",
        f"python -m spacy download {name or 'en_core_web_lg'}",
    )
