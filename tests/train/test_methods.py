"""Each method, from the recipe to a model that answers: trained, saved, loaded, evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import StopsAt
from residency import pipeline
from residency.errors import Interrupted
from residency.recipe import Recipe
from residency.workspace import Run

METHODS: dict[str, dict[str, Any]] = {
    "dora": {"method": "lora", "lora": {"variant": "dora", "rank": 4}},
    "pissa": {"method": "lora", "lora": {"variant": "pissa", "rank": 4}},
    "ia3": {"method": "ia3", "learning_rate": 0.1},
    "prompt-tuning": {"method": "prompt-tuning", "prompt_tuning": {"virtual_tokens": 5}, "learning_rate": 0.1},
    "freeze": {"method": "freeze", "freeze": {"train_last": 1}},
    "qlora": {"method": "qlora", "lora": {"rank": 4}},
}


def recipe_of(raw: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe.parse({**raw, "train": {**raw["train"], "precision": "fp32", **settings}})


def losses(folder: Path) -> list[float]:
    rows = Run.open(folder).read_jsonl("metrics.jsonl", "train")
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_and_goes_on_after_a_stop_to_the_same_bits(
    name: str, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    if name == "qlora":
        pytest.importorskip("bitsandbytes")
    recipe = recipe_of(small_recipe, max_steps=9, evaluate_every=3, **METHODS[name])
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    pipeline.prepare(recipe, folders[0])
    shutil.copytree(*folders)
    pipeline.train(recipe, folders[0])
    with pytest.raises(Interrupted, match="step 5"):
        pipeline.train(recipe, folders[1], StopsAt(5))
    pipeline.train(recipe, folders[1], resume=True)
    assert losses(folders[0]) == losses(folders[1])
    assert losses(folders[0])[-1] < losses(folders[0])[0]
    one, other = (
        {file.name: load_file(file) for file in sorted((folder / "model").glob("*.safetensors"))} for folder in folders
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[file][key]) for file, own in one.items() for key, tensor in own.items())
    report = json.loads((folders[0] / "train.json").read_text())
    if name == "freeze":
        assert report["merge"] is None
    else:
        assert 0 <= report["merge"]["largest"] < report["merge"]["bound"] == 1e-3
