from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from residency import pipeline
from residency.recipe import Recipe

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forks of a warm process"),
    pytest.mark.timeout(240),
]

KILLS = 20


class Lives:
    """Starts trainings in a warm process; see lives.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "lives.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        )  # fmt: skip

    def live(self, recipe: Path, folder: Path, *options: str, command: str = "train", **wish: Any) -> dict[str, Any]:
        argv = [command, str(recipe), "--out", str(folder), *options]
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"argv": argv, "folder": str(folder), **wish}) + "\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    warm = Lives()
    yield warm
    warm.close()


def written(raw: dict[str, Any], folder: Path, **settings: Any) -> Path:
    """The small recipe under changed settings as a file."""
    raw = {**raw, "train": {**raw["train"], "precision": "fp32", "epochs": 3, "evaluate_every": 3, **settings}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def prepared(lives: Lives, recipe: Path, folder: Path) -> Path:
    assert lives.live(recipe, folder, command="prepare")["code"] == 0
    return folder


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (1, {"method": "lora", "lora": {"rank": 4, "dropout": 0.1}, "average_last": 3}),
        (2, {"method": "full", "optimizer": "adafactor", "best_by": "chrf", "best_questions": 2}),
    ],
    ids=["lora with dropout, averaged", "full by chrf"],
)
def test_a_training_killed_again_and_again_ends_in_the_same_bits(
    seed: int, settings: dict[str, Any], lives: Lives, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = written(small_recipe, tmp_path, **settings)
    whole = lives.live(recipe, prepared(lives, recipe, tmp_path / "whole"), compare=True)
    assert whole["code"] == 0, whole["errors"]
    chance, kills, number = random.Random(seed), 0, 0
    while kills < KILLS // 2:  # a training that ended sooner is followed by another
        number += 1
        folder = prepared(lives, recipe, tmp_path / f"killed{number}")
        life: dict[str, Any] = {"status": -9}
        while life["status"] == -9:
            moment = chance.randint(1, whole["moments"] // 2) if kills < KILLS // 2 else None
            life = lives.live(recipe, folder, "--resume", die=moment, torn=chance.random() < 0.3)
            kills += life["status"] == -9
        assert life["code"] == 0, life["errors"]
        again = lives.live(recipe, folder, "--resume", compare=True)
        assert again["ended"] == whole["ended"]
    assert kills >= KILLS // 2
    assert [row["step"] for row in whole["ended"]["metrics"] if "loss" in row] == list(range(1, 19))
