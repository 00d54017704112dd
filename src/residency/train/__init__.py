"""Fine-tuning: batches by token budget, loss on answer tokens, checkpoints, curves."""

from residency.train.checkpoints import refuse_changed
from residency.train.finder import Sweep, find_learning_rate
from residency.train.fit import fitted, train
from residency.train.fitting import as_fitted, said
from residency.train.plan import Examples, Plan, assumed, described, examples, plan
from residency.train.planning import Forecast
from residency.train.results import TrainReport, finished
from residency.train.schedules import curve

__all__ = [
    "Examples",
    "Forecast",
    "Plan",
    "Sweep",
    "TrainReport",
    "as_fitted",
    "assumed",
    "curve",
    "described",
    "examples",
    "find_learning_rate",
    "finished",
    "fitted",
    "plan",
    "refuse_changed",
    "said",
    "train",
]
