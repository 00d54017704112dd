"""From documents to question-answer pairs, by rules and by a model."""

from residency.data.synthesise.collect import Synthesised, synthesise
from residency.data.synthesise.model import PROMPT, Ask
from residency.data.synthesise.replies import Replies

__all__ = ["PROMPT", "Ask", "Replies", "Synthesised", "synthesise"]
