"""Base and tuned model, and others beside them, on the same held-out questions, and what the difference is worth."""

from residency.evaluate.ask import asker, replies
from residency.evaluate.compare import EvaluationReport, evaluate
from residency.evaluate.named import KEY_ENV
from residency.evaluate.quick import judge

__all__ = ["KEY_ENV", "EvaluationReport", "asker", "evaluate", "judge", "replies"]
