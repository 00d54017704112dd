"""Which weights a training ends with: those of the best checkpoint, or the mean of the last few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from residency.errors import UserError
from residency.recipe import TrainSection

Judge = Callable[[Any], dict[str, float]]  # a model's answers to some validation questions, as metrics
# By the recipe's name: the metric as the trainer calls it, and whether more of it is better.
METRICS = {
    "loss": ("eval_loss", False),
    "rouge-l": ("eval_rouge_l", True),
    "chrf": ("eval_chrf", True),
    "stops": ("eval_stopped", True),
}


def choosing(section: TrainSection, *, validated: bool) -> dict[str, Any]:
    """Training arguments that say which validation is the best one.

    Raises:
        UserError: answers are to choose the checkpoint, and there is no validation set to ask from.
    """
    if not validated:
        if section.best_by != "loss":
            raise UserError(
                f"train.best_by is {section.best_by}, and there are no validation rows",
                "some rows to choose by",
                "raise data.validation, or leave out train.best_by",
            )
        return {"metric_for_best_model": None, "greater_is_better": None}
    name, more = METRICS[section.best_by]
    return {"metric_for_best_model": name, "greater_is_better": more}


def average(load: Callable[[Path], Any], checkpoints: Sequence[Path]) -> None:
    """Set a model's trainable weights to the mean, in float32, of what they are in each checkpoint.

    `load` puts a checkpoint's weights into the model and returns it. (Izmailov et al. 2018, arXiv:1803.05407.)
    """
    sums: dict[str, torch.Tensor] = {}
    model = None
    for checkpoint in checkpoints:
        model = load(checkpoint)
        for name, weight in _learning(model):
            own = weight.detach().float()
            sums[name] = sums[name] + own if name in sums else own.clone()
    with torch.no_grad():
        for name, weight in _learning(model):
            weight.copy_(sums[name] / len(checkpoints))


def _learning(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
