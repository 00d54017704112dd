"""Fine-tuning: batches by token budget, loss on answer tokens, checkpoints, curves."""

from residency.train.checkpoints import refuse_changed
from residency.train.finder import Sweep, find_learning_rate
from residency.train.fit import train
from residency.train.forecast import Summary, summarise
from residency.train.results import TrainReport, finished
from residency.train.schedules import curve

__all__ = [
    "Summary",
    "Sweep",
    "TrainReport",
    "curve",
    "find_learning_rate",
    "finished",
    "refuse_changed",
    "summarise",
    "train",
]
