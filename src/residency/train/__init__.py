"""Fine-tuning: batches by token budget, loss on answer tokens, checkpoints, curves."""

from residency.train.checkpoints import refuse_changed
from residency.train.fit import TrainReport, finished, fitted, train
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
    "finished",
    "fitted",
    "plan",
    "refuse_changed",
    "said",
    "train",
]
