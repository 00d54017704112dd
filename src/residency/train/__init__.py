"""Fine-tuning: batches by token budget, loss on answer tokens, checkpoints, curves."""

from residency.train.checkpoints import refuse_changed
from residency.train.fit import TrainReport, finished, train
from residency.train.forecast import Summary, summarise

__all__ = ["Summary", "TrainReport", "finished", "refuse_changed", "summarise", "train"]
