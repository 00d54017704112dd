"""Base and tuned model on the same held-out questions, and what the difference is worth."""

from residency.evaluate.ask import asker
from residency.evaluate.compare import EvaluationReport, evaluate
from residency.evaluate.quick import judge

__all__ = ["EvaluationReport", "asker", "evaluate", "judge"]
