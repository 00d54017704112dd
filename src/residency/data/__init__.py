"""From a source of dialogues to clean, counted and split rows."""

from residency.data.prepare import DataReport, prepare

__all__ = ["DataReport", "prepare"]
