"""Fine-tuning: batches by token budget, loss on answer tokens, checkpoints, curves."""

from residency.train.fit import TrainReport, train
from residency.train.forecast import Summary, summarise

__all__ = ["Summary", "TrainReport", "summarise", "train"]
