"""Fine-tuning: batches by token budget, loss on answer tokens, checkpoints, curves."""

from residency.train.fit import TrainReport, fitted, train
from residency.train.fitting import said
from residency.train.plan import Examples, Plan, assumed, described, examples, plan
from residency.train.planning import Forecast

__all__ = [
    "Examples",
    "Forecast",
    "Plan",
    "TrainReport",
    "assumed",
    "described",
    "examples",
    "fitted",
    "plan",
    "said",
    "train",
]
