from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from residency import pipeline
from residency.errors import UserError
from residency.recipe import Recipe
from residency.train.best import average
from residency.workspace import Run


def recipe_of(raw: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe.parse({**raw, "train": {**raw["train"], "precision": "fp32", **settings}})


def trained(recipe: Recipe, folder: Path, **options: Any) -> dict[str, Any]:
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder, **options)
    found: dict[str, Any] = Run.open(folder).read_json("train.json", "train")
    return found


class Remembers(TrainerCallback):
    """Keeps the weights at some steps."""

    def __init__(self) -> None:
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        self.weights[state.global_step] = {name: weight.clone() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("by", ["rouge-l", "chrf", "stops"])
def test_the_checkpoint_whose_answers_are_best_is_kept(by: str, small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(
        small_recipe, method="full", learning_rate=1.0, warmup=12, epochs=2, evaluate_every=2, best_by=by,
        best_questions=2,
    )  # fmt: skip
    remembers = Remembers()
    report = trained(recipe, tmp_path, callbacks=[remembers])
    key = {"rouge-l": "validation_rouge_l", "chrf": "validation_chrf", "stops": "validation_stopped"}[by]
    rows = [row for row in Run.open(tmp_path).read_jsonl("metrics.jsonl", "train") if "validation_loss" in row]
    best = max(rows, key=lambda row: row[key])  # the first of equals
    assert (report["best_by"], report["best_step"], report["best_value"]) == (by, best["step"], best[key])
    assert report["best_validation_loss"] == best["validation_loss"]
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(tensor, remembers.weights[best["step"]][name]) for name, tensor in saved.items())


def test_patience_goes_by_the_chosen_metric(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(
        small_recipe, epochs=4, evaluate_every=2, patience=2, best_by="stops", best_questions=2, learning_rate=1e-6
    )
    # Nothing is learnt, so no answer ever stops by itself; the loss falls all the same.
    report = trained(recipe, tmp_path)
    validations = [row["validation_loss"] for row in Run.open(tmp_path).read_jsonl("metrics.jsonl", "train")
                   if "validation_loss" in row]  # fmt: skip
    assert (report["stopped_early"], report["steps"], report["best_step"]) == (True, 6, 2)
    assert validations == sorted(validations, reverse=True)


def test_choosing_by_answers_needs_validation_rows(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    small_recipe["data"]["validation"] = 0
    with pytest.raises(UserError, match=r"train.best_by is chrf, and there are no validation rows.*data.validation"):
        trained(recipe_of(small_recipe, best_by="chrf"), tmp_path)


def test_the_mean_of_the_last_checkpoints_is_the_model(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(small_recipe, method="full", epochs=2, evaluate_every=2, average_last=3)
    remembers = Remembers()
    report = trained(recipe, tmp_path, callbacks=[remembers])
    assert report["averaged"] == [8, 10, 12]
    saved = load_file(tmp_path / "model" / "model.safetensors")
    for name, tensor in saved.items():
        expected = torch.stack([remembers.weights[step][name] for step in (8, 10, 12)]).mean(0)
        assert torch.allclose(tensor, expected, atol=1e-6), name
    assert 0 < report["averaged_validation_loss"] < 10


def test_a_mean_is_taken_in_float32_and_of_weights_that_learn_alone() -> None:
    model = torch.nn.Linear(1, 1).to(torch.bfloat16)
    model.bias.requires_grad_(False)
    values = {Path("a"): 1.0, Path("b"): 1.0078125, Path("c"): 1.0078125}

    def load(checkpoint: Path) -> Any:
        with torch.no_grad():
            model.weight.fill_(values[checkpoint])
            model.bias.fill_(values[checkpoint])
        return model

    average(load, list(values))
    # bf16 has no number between the two; a sum in bf16 would be 3.015625 -> 3.0, and the mean 1.0.
    assert model.weight.item() == 1.0078125
    assert model.bias.item() == values[Path("c")]


def test_fewer_checkpoints_than_asked_for_are_averaged_as_they_are(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    report = trained(recipe_of(small_recipe, max_steps=2, evaluate_every=2, average_last=5), tmp_path)
    assert report["averaged"] == [2]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.float32
