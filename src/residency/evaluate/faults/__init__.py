"""Error analysis: which faults answers have, what in the data stands behind them, and what to change in the recipe."""

from residency.evaluate.faults.causes import gather
from residency.evaluate.faults.change import change
from residency.evaluate.faults.find import ANSWERS, chosen, find, read, with_sentences
from residency.evaluate.faults.fixed import ENDING, renamed, written
from residency.evaluate.faults.nearest import Nearest
from residency.evaluate.faults.remedies import together
from residency.evaluate.faults.report import summary
from residency.evaluate.faults.rules import CATEGORIES
from residency.evaluate.faults.told import fixed, told
from residency.evaluate.scores.values import stock_sentences

__all__ = [
    "ANSWERS",
    "CATEGORIES",
    "ENDING",
    "Nearest",
    "change",
    "chosen",
    "find",
    "fixed",
    "gather",
    "read",
    "renamed",
    "stock_sentences",
    "summary",
    "together",
    "told",
    "with_sentences",
    "written",
]
