from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from residency.train import checkpoints
from warm import Lives

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forks of a warm process"),
    pytest.mark.timeout(240),
]

KILLS = 20


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    with Lives.warm() as warm:
        yield warm


def written(raw: dict[str, Any], folder: Path, **settings: Any) -> Path:
    """The small recipe under changed settings as a file."""
    raw = {**raw, "train": {**raw["train"], "precision": "fp32", "epochs": 3, "evaluate_every": 3, **settings}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def prepared(lives: Lives, recipe: Path, folder: Path) -> Path:
    assert lives.live(recipe, folder, command="prepare")["code"] == 0
    return folder


@dataclass(frozen=True)
class Whole:
    """A training that nothing befell: its recipe, the data before it, and what it ended in."""

    recipe: Path
    data: Path
    ended: dict[str, Any]

    def again(self, folder: Path) -> Path:
        """The run folder as it was before training."""
        return Path(shutil.copytree(self.data, folder / "run"))


@pytest.mark.fault("SIGKILL at random file operations and steps", "train", "it goes on, and ends in the same bits")
@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (1, {"method": "lora", "lora": {"rank": 4, "dropout": 0.1}, "average_last": 3}),
        (2, {"method": "full", "optimizer": "adafactor", "best_by": "chrf", "best_questions": 2}),
    ],
    ids=["lora with dropout, averaged", "full by chrf"],
)
def test_a_training_killed_again_and_again_ends_in_the_same_bits(
    seed: int,
    settings: dict[str, Any],
    lives: Lives,
    small_recipe: dict[str, Any],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    recipe = written(small_recipe, tmp_path, **settings)
    data = prepared(lives, recipe, tmp_path / "data")
    whole = lives.live(recipe, Path(shutil.copytree(data, tmp_path / "whole")), compare=True)
    assert whole["code"] == 0, whole["errors"]
    chance, kills, number = random.Random(seed), 0, 0
    while kills < KILLS // 2:  # a training that ended sooner is followed by another
        number += 1
        folder = Path(shutil.copytree(data, tmp_path / f"killed{number}"))
        life: dict[str, Any] = {"status": -9}
        while life["status"] == -9:
            moment = chance.randint(1, whole["moments"] // 2) if kills < KILLS // 2 else None
            life = lives.live(recipe, folder, "--resume", die=moment, torn=chance.random() < 0.3)
            kills += life["status"] == -9
        assert life["code"] == 0, life["errors"]
        again = lives.live(recipe, folder, "--resume", compare=True)
        assert again["ended"] == whole["ended"]
    assert kills >= KILLS // 2
    record_property("injected", kills)
    assert [row["step"] for row in whole["ended"]["metrics"] if "loss" in row] == list(range(1, 19))


@pytest.fixture(scope="module")
def whole(lives: Lives, llama_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A training that nothing befell: six steps an epoch, a checkpoint every third."""
    folder = tmp_path_factory.mktemp("whole")
    raw = {
        "name": "small",
        "data": {"source": str(data_file), "question": "Description", "answer": "Doctor", "validation": 0.1},
        "model": {"base": str(llama_folder), "max_length": 256},
        "train": {"examples_per_step": 8, "learning_rate": 0.01, "epochs": 2, "lora": {"rank": 4, "dropout": 0.1}},
    }
    recipe = written(raw, folder, epochs=2)
    data = prepared(lives, recipe, folder / "data")
    found = lives.live(recipe, Path(shutil.copytree(data, folder / "run")), compare=True)
    return Whole(recipe, data, found["ended"])


def test_sigterm_leaves_a_checkpoint_of_its_step_and_code_3(lives: Lives, whole: Whole, tmp_path: Path) -> None:
    folder = whole.again(tmp_path)
    life = lives.live(whole.recipe, folder, signal=8)
    assert life["code"] == 3
    assert life["errors"].count("residency: ") == 1
    assert "training stopped at step 8 of 12; go on with `residency train RECIPE --resume" in life["errors"]
    assert checkpoints.newest(folder / "checkpoints") == folder / "checkpoints" / "checkpoint-8"
    assert lives.live(whole.recipe, folder, "--resume", compare=True)["ended"] == whole.ended


@pytest.mark.fault("the disk is full", "train", "one line; it goes on, and ends in the same bits")
@pytest.mark.parametrize(
    ("limit", "kept"),
    [(1_000, [3]), (9_000, [3]), (40_000, [3]), (90_000, [9, 12])],
    ids=["metrics", "weights", "optimizer", "model"],
)
def test_a_full_disk_is_one_line_and_costs_nothing_that_was_saved(
    limit: int, kept: list[int], lives: Lives, whole: Whole, tmp_path: Path
) -> None:
    folder = whole.again(tmp_path)
    life = lives.live(whole.recipe, folder, **{"from": 5, "limit": limit})
    assert life["code"] == 2, life
    (line,) = [line for line in life["errors"].splitlines() if line.startswith("residency: ")]
    assert f"run folder {folder}: can't be written to" in line
    assert "--resume goes on from the last checkpoint" in line
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {f"checkpoint-{step}" for step in kept}
    assert all(checkpoints.fault_of(path) == "" for path in (folder / "checkpoints").iterdir())
    assert lives.live(whole.recipe, folder, "--resume", compare=True)["ended"] == whole.ended


def test_memory_that_runs_out_is_one_line_that_says_what_to_lower(lives: Lives, whole: Whole, tmp_path: Path) -> None:
    folder = whole.again(tmp_path)
    life = lives.live(whole.recipe, folder, memory=8)
    assert life["code"] == 2
    (line,) = [line for line in life["errors"].splitlines() if line.startswith("residency: ")]
    assert re.search(r"out of memory with train.tokens_per_batch at 1024; .*lower train.tokens_per_batch.*to 512", line)
    lower = lives.live(whole.recipe, folder, "--resume", "--set", "train.tokens_per_batch=512", compare=True)
    losses, expected = (
        [row["loss"] for row in run["metrics"] if "loss" in row] for run in (lower["ended"], whole.ended)
    )
    assert losses == pytest.approx(expected, abs=1e-3)


def flipped(checkpoint: Path) -> None:
    file = checkpoint / "optimizer.pt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "optimizer.pt: sha256 differs from the manifest": flipped,
    "scheduler.pt: missing": lambda checkpoint: (checkpoint / "scheduler.pt").unlink(),
    "metrics.jsonl: 0 bytes, the manifest says": lambda checkpoint: (checkpoint / "metrics.jsonl").write_text(""),
    "manifest.json is missing: it was cut short": lambda checkpoint: (checkpoint / "manifest.json").unlink(),
    "manifest.json is damaged": lambda checkpoint: (checkpoint / "manifest.json").write_text('{"files": {'),
    "manifest.json names no step": lambda checkpoint: (checkpoint / "manifest.json").write_text("{}"),
}


@pytest.mark.fault(
    "a checkpoint with a flipped byte, or otherwise damaged",
    "train",
    "named and passed over; the same bits from the one before",
)
def test_each_damage_to_a_checkpoint_is_told_apart_and_it_is_passed_over(
    lives: Lives, whole: Whole, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("injected", len(DAMAGES))
    folder = whole.again(tmp_path)
    assert lives.live(whole.recipe, folder, signal=8)["code"] == 3
    sound, torn = (folder / "checkpoints" / f"checkpoint-{step}" for step in (6, 8))
    assert checkpoints.newest(folder / "checkpoints") == torn
    kept = Path(shutil.copytree(torn, tmp_path / "kept"))
    for fault, damage in DAMAGES.items():
        shutil.rmtree(torn)
        shutil.copytree(kept, torn)
        damage(torn)
        said: list[str] = []
        assert checkpoints.newest(folder / "checkpoints", said.append) == sound
        assert len(said) == 1
        assert said[0].startswith(f"{torn} is damaged and passed over: {fault}")
    life = lives.live(whole.recipe, folder, "--resume", compare=True)
    assert f"{torn} is damaged and passed over" in life["errors"]
    assert life["ended"] == whole.ended


def test_a_checkpoint_of_another_recipe_or_other_data_is_refused_with_what_differs(
    lives: Lives, whole: Whole, tmp_path: Path
) -> None:
    folder = whole.again(tmp_path)
    lives.live(whole.recipe, folder, signal=5)
    changed = ("--set", "train.epochs=3", "--set", "train.lora.rank=8", "--set", "train.trackers=[tensorboard]")
    life = lives.live(whole.recipe, folder, "--resume", *changed, "--set", "evaluate.questions=3")
    assert life["code"] == 2
    assert "(train.lora.rank: was 4, is 8, train.epochs: was 2, is 3)" in life["errors"]
    with (folder / "data" / "train.jsonl").open("a") as file:
        file.write((folder / "data" / "train.jsonl").read_text().splitlines()[0] + "\n")
    life = lives.live(whole.recipe, folder, "--resume")
    assert life["code"] == 2
    assert re.search(r"data/train.jsonl: was 48 rows with sha256 \w+, is 49 rows", life["errors"])


def test_the_best_checkpoint_is_found_after_a_stop_though_many_came_since(
    lives: Lives, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    # The rate climbs until the model gets worse: the best checkpoint is an early one. The run folder is moved as well.
    settings = {"method": "full", "learning_rate": 1.0, "warmup": 12, "epochs": 3, "evaluate_every": 1}
    recipe = written(small_recipe, tmp_path, **settings)
    data = prepared(lives, recipe, tmp_path / "data")
    whole = lives.live(recipe, Path(shutil.copytree(data, tmp_path / "whole")), compare=True)["ended"]
    best = whole["report"]["best_step"]
    assert best < 14
    folder = Path(shutil.copytree(data, tmp_path / "stopped"))
    assert lives.live(recipe, folder, signal=16)["code"] == 3
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept == {f"checkpoint-{step}" for step in (best, 15, 16)}
    moved = folder.rename(tmp_path / "moved")
    assert lives.live(recipe, moved, "--resume", compare=True)["ended"] == whole


def test_a_best_checkpoint_that_is_lost_is_told_and_the_next_best_is_kept(
    lives: Lives, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"method": "full", "learning_rate": 1.0, "warmup": 12, "epochs": 3, "evaluate_every": 1}
    recipe = written(small_recipe, tmp_path, **settings)
    folder = prepared(lives, recipe, tmp_path / "run")
    lives.live(recipe, folder, signal=16)
    state = checkpoints.state_of(folder / "checkpoints" / "checkpoint-16")
    shutil.rmtree(folder / "checkpoints" / f"checkpoint-{state.best_global_step}")
    life = lives.live(recipe, folder, "--resume", compare=True)
    assert f"checkpoint-{state.best_global_step}, the best so far, can't be used: not there" in life["errors"]
    validations = {row["step"]: row["validation_loss"] for row in life["ended"]["metrics"] if "validation_loss" in row}
    assert life["ended"]["report"]["best_step"] == min(range(16, 19), key=lambda step: validations[step])
