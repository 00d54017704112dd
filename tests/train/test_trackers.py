from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from residency import pipeline
from residency.errors import UserError
from residency.recipe import Recipe
from residency.train.trackers import KNOWN, offline
from residency.workspace import Run


def test_tensorboard_gets_every_loss_in_the_run_folder(
    small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    small_recipe["train"] |= {"trackers": ["tensorboard"], "max_steps": 3, "evaluate_every": 2}
    recipe = Recipe.parse(small_recipe)
    pipeline.prepare(recipe, tmp_path)
    pipeline.train(recipe, tmp_path)
    found = events.EventAccumulator(str(tmp_path / "trackers" / "tensorboard")).Reload()
    losses = [row["loss"] for row in Run.open(tmp_path).read_jsonl("metrics.jsonl", "train") if "loss" in row]
    assert [event.value for event in found.Scalars("train/loss")] == pytest.approx(losses)
    assert [event.step for event in found.Scalars("eval/loss")] == [2, 3]
    assert pipeline.verify(tmp_path) == []
    assert not any("trackers" in name for name in Run.open(tmp_path).read_json("manifest.json", "run")["files"])


@pytest.mark.parametrize("name", KNOWN)
def test_trackers_stay_on_this_machine_unless_the_environment_says_otherwise(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, KNOWN[name][0], ModuleType(name))
    variable = next(iter(KNOWN[name][1]))
    monkeypatch.delenv(variable, raising=False)
    with offline([name], tmp_path):
        value = os.environ[variable]
        assert value == "offline" or str(tmp_path / "trackers") in value
    assert variable not in os.environ
    monkeypatch.setenv(variable, "https://elsewhere")
    with offline([name], tmp_path):
        assert os.environ[variable] == "https://elsewhere"
    assert os.environ[variable] == "https://elsewhere"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", r'tensorbord is not known; expected some of tensorboard, .*did you mean "tensorboard"'),
        ("mlflow", r"mlflow is not installed .*; pip install mlflow, or leave it out"),
    ],
)
def test_a_tracker_that_can_not_be_used_is_one_line(
    name: str, message: str, small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.parse({**small_recipe, "train": {"trackers": [name]}})
    pipeline.prepare(recipe, tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=message):
        pipeline.train(recipe, tmp_path)


def test_without_trackers_nothing_is_made(tmp_path: Path) -> None:
    before = dict(os.environ)
    with offline([], tmp_path):
        assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


def test_what_a_tracker_says_is_not_said_where_the_command_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with offline([], tmp_path):
        print("Created new run")  # noqa: T201
    assert capsys.readouterr() == ("", "Created new run\n")
