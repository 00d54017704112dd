"""A clock that goes back: nothing is decided by the time of day, nor by the dates of files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from residency.export.export import is_of, model_hash
from residency.recipe import Recipe
from residency.workspace import Run
from warm import Lives

DAY = 86_400


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    if not hasattr(os, "fork"):
        pytest.skip("lives are forks of a warm process")
    with Lives.warm() as warm:
        yield warm


@pytest.mark.fault("the clock goes back by a day", "train", "the same bits, and no time below zero")
def test_a_training_under_a_clock_that_goes_back_ends_in_the_same_bits(
    lives: Lives, small_recipe: dict[str, Any], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    raw = {**small_recipe, "train": {**small_recipe["train"], "precision": "fp32", "max_steps": 4}}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(raw))
    assert lives.live(file, tmp_path / "data", command="prepare")["code"] == 0
    whole = lives.live(file, Path(shutil.copytree(tmp_path / "data", tmp_path / "whole")), compare=True)
    moments = (1, whole["moments"] // 2)
    for moment in moments:
        folder = Path(shutil.copytree(tmp_path / "data", tmp_path / f"back-{moment}"))
        life = lives.live(file, folder, back=moment, compare=True)
        assert life["code"] == 0, life["errors"]
        assert life["ended"] == whole["ended"]
        assert Run(folder).read_json("train.json", "train")["seconds"] > 0
    record_property("injected", len(moments))


@pytest.mark.fault("the clock went back between two trainings", "export", "a GGUF file of the older model is not taken")
def test_a_gguf_file_is_known_by_the_model_that_it_was_made_of_and_not_by_its_date(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    run = Run.create(tmp_path / "run", Recipe.parse(small_recipe))
    weights = run.write_bytes("model/model.safetensors", b"first")
    file = run.write_bytes("export/gguf/small-f16.gguf", b"of the first")
    assert not is_of(run, file)
    run.write_json("export/gguf/check.json", {"file": file.name, "model": model_hash(run)})
    os.utime(weights, (time.time() + DAY, time.time() + DAY))
    assert is_of(run, file), "a newer date alone makes no other model"
    run.write_bytes("model/model.safetensors", b"again")
    os.utime(weights, (time.time() - DAY, time.time() - DAY))
    assert not is_of(run, file), "an older date does not make it the same"
