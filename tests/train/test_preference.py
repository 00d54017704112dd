"""What a recipe must have to learn preferences; none of it needs TRL."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from conftest import write_jsonl
from residency import pipeline
from residency.cli import app
from residency.errors import UserError
from residency.recipe import Recipe

ROWS = [{"prompt": f"q{n}?", "chosen": f"Take {n} of it.", "rejected": f"No {n}."} for n in range(20)]


def recipe_of(**sections: dict[str, Any]) -> dict[str, Any]:
    train = {"objective": "dpo", **sections.pop("train", {})}
    return {"name": "x", "data": {"source": "s"}, "train": train, **sections}


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"prompt": {"learn": "everything"}}, r"prompt\.learn is everything"),
        ({"train": {"label_smoothing": 0.1}}, r"label_smoothing is of tokens; .*train\.dpo\.label_smoothing"),
        ({"train": {"lora": {"dropout": 0.1}}}, r"lora\.dropout is 0\.1"),
        ({"train": {"lora": {"variant": "pissa"}}}, r"variant pissa changes the base"),
        ({"train": {"method": "prompt-tuning"}}, "prompt-tuning; use lora"),
        ({"train": {"method": "full", "dpo": {"reference": "base"}}}, "reference is base, which train.method full"),
        ({"train": {"dpo": {"label_smoothing": 0.1}}}, "label_smoothing is of loss_type robust"),
    ],
)
def test_a_setting_that_does_not_hold_is_refused_and_not_ignored(sections: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Recipe.parse(recipe_of(**sections))


def test_settings_of_another_method_do_not_matter() -> None:
    Recipe.parse(recipe_of(train={"method": "full", "lora": {"dropout": 0.1, "variant": "pissa"}}))
    Recipe.parse(recipe_of(train={"objective": "sft", "label_smoothing": 0.1}))


@pytest.fixture
def file(tmp_path: Path, llama_folder: Path) -> Path:
    raw = recipe_of(model={"base": str(llama_folder), "max_length": 64})
    raw["data"] = {"source": str(write_jsonl(tmp_path / "pairs.jsonl", ROWS)), "near_duplicate": 1.0}
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_without_trl_one_line_names_the_extra(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.prepare(Recipe.load(file), tmp_path / "run")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else there(name, *rest))
    done = CliRunner().invoke(app, ["train", str(file), "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "trl is not installed; `pip install 'residency[preference]'` brings it" in done.stderr.splitlines()[-1]


def test_a_sweep_of_the_learning_rate_is_refused(file: Path, tmp_path: Path) -> None:
    pipeline.prepare(Recipe.load(file), tmp_path / "run")
    with pytest.raises(UserError, match=r"--find-lr: train\.objective is dpo"):
        pipeline.find_learning_rate(Recipe.load(file), tmp_path / "run")


def test_of_pairs_supervised_training_learns_the_chosen_answers(file: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(file, ["train.objective=sft", "train.max_steps=1"])
    pipeline.prepare(recipe, tmp_path / "run")
    found = pipeline.train(recipe, tmp_path / "run")
    assert found.preference is None
    assert found.examples == 17


def test_prepared_answers_without_a_rejected_one_are_refused(file: Path, data_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="needs residency[preference]")
    overrides = ["data.question=Description", "data.answer=Doctor", f"data.source={data_file}", "model.max_length=256"]
    pipeline.prepare(Recipe.load(file, [*overrides, "train.objective=sft"]), tmp_path / "run")
    with pytest.raises(UserError, match="holds no rejected answers; expected pairs of answers"):
        pipeline.train(Recipe.load(file, overrides), tmp_path / "run")
