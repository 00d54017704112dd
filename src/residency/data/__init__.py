"""From a source of dialogues to clean, counted and split rows."""

from residency.data.prepare import DataReport, prepare
from residency.data.write import inputs_of, reusable

__all__ = ["DataReport", "inputs_of", "prepare", "reusable"]
