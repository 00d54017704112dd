from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from conftest import dialogues, write_jsonl
from residency import pipeline
from residency.errors import Interrupted, UserError
from residency.recipe import Recipe
from residency.workspace import Run, sha256


class First(TrainerCallback):
    """Keeps the weights that training begins with; stops at a step where asked."""

    def __init__(self, stop: int = 0) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self.stop = stop

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == self.stop:
            raise KeyboardInterrupt


def recipe_of(raw: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe.parse({**raw, "train": {**raw["train"], "precision": "fp32", "max_steps": 3, **settings}})


def trained(recipe: Recipe, folder: Path, *callbacks: TrainerCallback) -> dict[str, Any]:
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder, callbacks=callbacks)
    found: dict[str, Any] = Run.open(folder).read_json("train.json", "train")
    return found


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_file: Path) -> dict[str, Path]:
    """Run folders of finished trainings by method."""
    raw = {
        "name": "small",
        "data": {"source": str(data_file), "question": "Description", "answer": "Doctor", "validation": 0.1},
        "model": {"base": str(llama_folder), "max_length": 256},
        "train": {"examples_per_step": 8, "learning_rate": 0.01},
    }
    folder = tmp_path_factory.mktemp("earlier")
    for method in ("lora", "full"):
        trained(recipe_of(raw, method=method), folder / method)
    return {method: folder / method for method in ("lora", "full")}


@pytest.mark.parametrize("inner", ["", "adapter"])
def test_an_adapter_is_trained_on(
    inner: str, earlier: dict[str, Path], small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    first = First()
    small_recipe["data"]["source"] = str(write_jsonl(tmp_path / "new.jsonl", dialogues(40)))
    report = trained(recipe_of(small_recipe, continue_from=str(earlier["lora"] / inner)), tmp_path / "run", first)
    adapter = earlier["lora"] / "adapter"
    saved = load_file(adapter / "adapter_model.safetensors")
    assert all(torch.equal(first.weights[name.replace(".weight", ".default.weight")], saved[name]) for name in saved)
    assert report["continued_from"] == {
        "folder": str(adapter), "kind": "adapter", "sha256": sha256(adapter / "adapter_model.safetensors"),
    }  # fmt: skip


@pytest.mark.parametrize("inner", ["", "model"])
def test_whole_weights_are_trained_on(
    inner: str, earlier: dict[str, Path], small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    first = First()
    report = trained(
        recipe_of(small_recipe, method="full", continue_from=str(earlier["full"] / inner)), tmp_path, first
    )
    saved = load_file(earlier["full"] / "model" / "model.safetensors")
    assert all(torch.equal(first.weights[name], saved[name]) for name in saved)
    assert (report["continued_from"]["kind"], report["continued_from"]["folder"]) == (
        "model", str(earlier["full"] / "model"),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_checkpoint_is_trained_on_with_new_data_and_a_resume_needs_it_no_longer(
    method: str, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    stopped, source = recipe_of(small_recipe, method=method, evaluate_every=1), tmp_path / "stopped"
    pipeline.prepare(stopped, source)
    with pytest.raises(Interrupted):
        pipeline.train(stopped, source, callbacks=[First(stop=2)])
    checkpoint = source / "checkpoints" / "checkpoint-1"
    small_recipe["data"]["source"] = str(write_jsonl(tmp_path / "new.jsonl", dialogues(40)))
    recipe = recipe_of(small_recipe, method=method, evaluate_every=1, continue_from=str(checkpoint))
    whole = trained(recipe, tmp_path / "whole")
    pipeline.prepare(recipe, tmp_path / "again")
    with pytest.raises(Interrupted):
        pipeline.train(recipe, tmp_path / "again", callbacks=[First(stop=2)])
    shutil.rmtree(source)
    pipeline.train(recipe, tmp_path / "again", resume=True)
    again = Run.open(tmp_path / "again").read_json("train.json", "train")
    assert again["continued_from"] == whole["continued_from"]
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_new_adapters_are_trained_on_the_merged_model_of_an_earlier_run(
    earlier: dict[str, Path], small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    small_recipe["model"]["base"] = str(earlier["lora"] / "model")
    first = First()
    trained(recipe_of(small_recipe), tmp_path, first)
    merged = load_file(earlier["lora"] / "model" / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(first.weights[f"base_model.model.{name}.base_layer.weight"], merged[f"{name}.weight"])


def refused(raw: dict[str, Any], folder: Path, **settings: Any) -> str:
    recipe = recipe_of(raw, **settings)
    pipeline.prepare(recipe, folder)
    with pytest.raises(UserError) as error:
        pipeline.train(recipe, folder)
    return str(error.value)


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("nowhere", {}, "nowhere: no such folder; expected a run folder, or its adapter, model or checkpoint"),
        ("lora/train.json", {}, "train.json: is a file"),
        ("lora/data", {}, "data: holds no adapter and no model"),
        ("full", {}, "full: a run without adapter/; expected one trained to its end with lora"),
        ("lora/adapter", {"method": "full"}, "an adapter, and train.method is full; .*use train.method=lora"),
        ("full/model", {}, "whole weights, and train.method is lora; expected an adapter; set model.base to it"),
        ("lora", {"lora": {"rank": 8}}, "its rank is 16, and train.lora.rank is 8; .*set train.lora.rank=16"),
        ("lora", {"lora": {"alpha": 16}}, "its alpha is 32, and train.lora.alpha is 16"),
        ("lora", {"lora": {"targets": ["q_proj"]}}, r"is \[16, \d+\] there and absent here.*train.lora.targets"),
    ],
)
def test_what_can_not_be_gone_on_from_is_one_line(
    source: str, settings: dict[str, Any], message: str, earlier: dict[str, Path], small_recipe: dict[str, Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = earlier["lora"].parent / source
    assert re.search(message, refused(small_recipe, tmp_path, continue_from=str(folder), **settings))


def test_weights_of_another_base_are_refused_with_the_difference(
    neox_folder: Path, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    found = refused(small_recipe, tmp_path, method="full", continue_from=str(neox_folder))
    assert "model_type is gpt_neox, and llama in" in found


def test_an_adapter_that_is_damaged_is_refused(
    earlier: dict[str, Path], small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(earlier["lora"] / "adapter", tmp_path / "adapter"))
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "can't be loaded" in refused(small_recipe, tmp_path / "run", continue_from=str(adapter))


def test_a_damaged_checkpoint_and_the_runs_own_folder_are_refused(
    earlier: dict[str, Path], small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(earlier["lora"] / "adapter", tmp_path / "checkpoint-1"))
    (adapter / "trainer_state.json").write_text("{}")
    (adapter / "manifest.json").write_text(json.dumps({"files": {}}))
    assert "a damaged checkpoint (manifest.json names no step)" in refused(
        small_recipe, tmp_path / "run", continue_from=str(adapter)
    )
    own = tmp_path / "run" / "adapter"
    own.mkdir()
    save_file({}, own / "adapter_model.safetensors")
    assert "lies in the folder of this run" in refused(small_recipe, tmp_path / "run", continue_from=str(own))
