"""What a training learns, and what that changes in it: the examples' answers, or to prefer one answer to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from residency.progress import Progress
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.train import checkpoints
from residency.train.trainer import ResidencyTrainer
from residency.workspace import Run


@dataclass(frozen=True)
class Objective:
    """Supervised training: the loss is taken over the answers."""

    recipe: Recipe

    def trainer(self, **options: Any) -> ResidencyTrainer:
        """What goes through the steps; the options are those of a ResidencyTrainer that the recipe alone can't tell."""
        return ResidencyTrainer(smoothing=self.recipe.train.label_smoothing, **self.settings(), **options)

    def settings(self) -> dict[str, Any]:
        """Options of any trainer that the recipe tells."""
        train = self.recipe.train
        return {"muon": train.optimizer == "muon", "kept": max(checkpoints.KEPT, train.average_last or 0)}

    def measured(self, trainer: Any) -> dict[str, Any] | None:
        """What the trained model's preferences are on held-out pairs; None where there are no pairs."""
        return None


def objective_of(recipe: Recipe, run: Run, prompt: Prompt, progress: Progress) -> Objective:
    """What the recipe's training learns, from the run's prepared data.

    Raises:
        UserError: pairs are to be learnt from, and TRL is not installed or the data holds none.
    """
    if recipe.train.objective == "sft":
        return Objective(recipe)
    from residency.train.preference import preference

    return preference(recipe, run, prompt, progress)
