"""Public benchmarks through lm-eval: its task definitions and standard errors, our batched likelihoods."""

from residency.evaluate.benchmarks.book import Book
from residency.evaluate.benchmarks.journal import Journal
from residency.evaluate.benchmarks.sitting import Settings, Sitting
from residency.evaluate.benchmarks.tasks import Exam, load, names_of, quiet_lm_eval, require

__all__ = ["Book", "Exam", "Journal", "Settings", "Sitting", "load", "names_of", "quiet_lm_eval", "require"]
