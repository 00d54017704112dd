"""From a source of dialogues to clean, counted and split rows."""

from residency.data.prepare import DataReport, prepare
from residency.data.write import reusable

__all__ = ["DataReport", "prepare", "reusable"]
