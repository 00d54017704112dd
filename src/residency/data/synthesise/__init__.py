"""From documents to question-answer pairs, by rules and by a model."""

from residency.data.synthesise.collect import Synthesised, synthesise
from residency.data.synthesise.model import PROMPT

__all__ = ["PROMPT", "Synthesised", "synthesise"]
