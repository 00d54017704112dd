"""From what has learnt to a model that loads without it, and the proof that both say the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from residency import models, virtual
from residency.batches import collate
from residency.dither import dither_adapted
from residency.errors import UserError
from residency.loss import head_on
from residency.prompts import Example
from residency.recipe import Recipe
from residency.train import quantised

BOUND = 1e-3  # of the logits' standard deviation; float32 rounding alone stays far below
EXAMPLES, TOKENS = 4, 64  # that are compared, and of each the last so many


@dataclass(frozen=True)
class Agreement:
    """How far the logits of the saved model are from those of base and adapter, in float32 on the last tokens of some
    examples of the run.

    `largest` is the largest difference of any logit, as a share of the logits' standard deviation; `dithered` the share
    of the weights under the adapter whose bits below bf16's were drawn before (`residency.dither`), in both.
    """

    examples: int
    tokens: int
    largest: float
    bound: float = BOUND
    dithered: float = 0.0


def merged(recipe: Recipe, adapter: Path, examples: Sequence[Example], pad_id: int) -> tuple[Any, Agreement]:
    """A fresh float32 base with the adapter merged into its weights, or put before it after prompt tuning.

    Raises:
        UserError: its logits and those of base and adapter differ by more than `BOUND`.
    """
    from peft import PeftModel

    train, batch = recipe.train, collate(examples[:EXAMPLES], pad_id)
    with models.quiet_libraries():
        base = quantised.unpacked(recipe.model) if train.method == "qlora" else models.load_base(recipe.model)
        adapted = PeftModel.from_pretrained(base, str(adapter)).eval()
        drawn, count = dither_adapted(adapted) if train.dither else (0, 0)
        expected = _logits(adapted, batch)
        if train.method == "prompt-tuning":
            model: Any = virtual.put_before(adapted.get_base_model(), virtual.read(adapter))
        else:
            model = adapted.merge_and_unload()
    found = agreement(expected, _logits(model, batch), len(examples[:EXAMPLES]))
    if not found.largest <= found.bound:  # so that a logit which is no number does not pass
        raise UserError(
            f"train.method {train.method}: the merged model's logits differ from its adapter's by {found.largest:.2g} "
            "of their spread",
            f"at most {found.bound:g}",
            f"the adapter lies in {adapter}; train it with precision fp32 or at a lower learning rate",
        )
    return model, replace(found, dithered=drawn / max(count, 1))


def agreement(expected: torch.Tensor, found: torch.Tensor, examples: int) -> Agreement:
    """Two models' logits [tokens, vocabulary] on the same tokens, compared."""
    largest = float((found - expected).abs().max() / expected.std())
    return Agreement(examples, len(expected), largest)


def _logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of each example's last tokens [tokens, vocabulary]: all of a long example's would take gigabytes."""
    mask = batch["attention_mask"]
    positions = mask.bool() & (mask.flip(1).cumsum(1).flip(1) <= TOKENS)
    with torch.no_grad(), head_on(model, positions):
        logits: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).logits
    return logits


def save_on_base(model: Any, recipe: Recipe, adapter: Path, folder: Path) -> None:
    """What prompt tuning leaves in `model/`: the learnt embeddings, the decoding, and which base they belong to.

    transformers refuses to load the folder by itself; `residency.models.load_tuned` does.
    """
    folder.mkdir()
    for name in (virtual.FILE, "adapter_config.json"):
        (folder / name).write_bytes((adapter / name).read_bytes())
    model.generation_config.save_pretrained(folder)
    (folder / models.BASE).write_text(json.dumps(recipe.model.model_dump(mode="json"), indent=1) + "\n", "utf-8")
