"""Preference tuning: what direct preference optimisation needs, and the pairs that it learns from.

DPO (Rafailov et al. 2023, arXiv:2305.18290) raises the likelihood of the chosen over the rejected answer, measured
against a reference: the model that training begins with. The loss is TRL's, and the tokens are those of supervised
training.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, concatenate_datasets

from residency.errors import UserError
from residency.progress import Progress
from residency.prompts import Examples, Prompt
from residency.recipe import Recipe
from residency.train.objective import Objective
from residency.train.trainer import ResidencyTrainer
from residency.workspace import Run

SPLITS = ("train", "validation", "test")
EXTRA = "residency[preference]"
ROWS = 1000  # that are Python's numbers at once, which take many times the room of the table's


@dataclass(frozen=True)
class Pairs:
    """The pairs of a split in tokens: two examples that begin with the same prompt."""

    chosen: Examples
    rejected: Examples

    def __len__(self) -> int:
        return len(self.chosen)

    def dataset(self) -> Dataset:
        """As TRL reads them: columns prompt_ids, chosen_ids and rejected_ids."""
        parts = [self._part(slice(start, start + ROWS)) for start in range(0, len(self), ROWS)]
        return concatenate_datasets([Dataset.from_dict(part) for part in parts])

    def _part(self, rows: slice) -> dict[str, list[tuple[int, ...]]]:
        both = list(zip(self.chosen[rows], self.rejected[rows], strict=True))
        return {
            "prompt_ids": [one.input_ids[: one.learn_from] for one, _ in both],
            "chosen_ids": [one.input_ids[one.learn_from :] for one, _ in both],
            "rejected_ids": [other.input_ids[other.learn_from :] for _, other in both],
        }


@dataclass(frozen=True)
class Preference(Objective):
    """Direct preference optimisation over the pairs of each split."""

    pairs: dict[str, Pairs]
    prompt: Prompt
    progress: Progress

    def trainer(self, **options: Any) -> ResidencyTrainer:
        """TRL's, with the batches, the checkpoints and the validation of supervised training."""
        from residency.train.dpo import PreferenceTrainer

        datasets = {name: pairs.dataset() for name, pairs in self.pairs.items() if len(pairs)}
        return PreferenceTrainer(
            section=self.recipe.train.dpo,
            pairs=datasets,
            processing_class=self.prompt.tokenizer,
            progress=self.progress,
            **self.settings(),
            **options,
        )

    def measured(self, trainer: Any) -> dict[str, Any] | None:
        """Preferences on the pairs that were held out, before and after; see `rewards.compared`."""
        section = self.recipe.train.dpo
        resamples = self.recipe.evaluate.resamples
        return {**section.model_dump(), "held_out": trainer.held_out(resamples)}


def preference(recipe: Recipe, run: Run, prompt: Prompt, progress: Progress) -> Preference:
    """DPO as the recipe asks for it.

    Raises:
        UserError: TRL is not installed, or the data holds no pairs.
    """
    if importlib.util.find_spec("trl") is None:
        raise UserError(
            "train.objective dpo: trl is not installed",
            fix=f"`pip install '{EXTRA}'` brings it (Python 3.11 or newer)",
        )
    if not run.dialogues("train")[0].rejected:
        raise UserError(
            f"train.objective dpo: {run.folder / 'data'} holds no rejected answers",
            "pairs of answers",
            "prepare them from columns chosen and rejected, or from votes; or set train.objective: sft",
        )
    return Preference(recipe, {name: _pairs(run, prompt, recipe, name) for name in SPLITS}, prompt, progress)


def _pairs(run: Run, prompt: Prompt, recipe: Recipe, split: str) -> Pairs:
    limit, dialogues = recipe.model.max_length, run.dialogues(split)
    return Pairs(
        prompt.examples(((d.question, d.answer, d.before) for d in dialogues), limit),
        prompt.examples(((d.question, d.rejected, d.before) for d in dialogues), limit),
    )
