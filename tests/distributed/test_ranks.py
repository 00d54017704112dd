"""Trainings in two processes over gloo against the same in one, and what becomes of them when one dies.

One warm process starts them all (`crew.py`), since each start of Python with torch takes seconds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from residency import pipeline
from residency.recipe import Recipe
from residency.train import checkpoints

WAYS: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "again": {"strategy": "fsdp", "recompute": True},
}
CLOSE = 1e-5  # relative, in float32


class Crew:
    """The warm process, asked for one training at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("crew.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, recipe: Path, run: Path, ranks: int, *more: str, **wish: Any) -> dict[str, Any]:
        argv = ["train", str(recipe), "--out", str(run), *more]
        assert self.process.stdin and self.process.stdout
        told = str(run.with_suffix(".told"))
        self.process.stdin.write(json.dumps({"argv": argv, "ranks": ranks, "told": told, **wish}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    found = Crew(tmp_path_factory.mktemp("crew"))
    yield found
    assert found.process.stdin
    found.process.stdin.close()
    found.process.wait(60)


@pytest.fixture(scope="module")
def prepared(llama_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose data is prepared, to be copied."""
    folder = tmp_path_factory.mktemp("prepared") / "run"
    pipeline.prepare(Recipe.parse(raw(llama_folder, data_file)), folder)
    return folder


def raw(model: Path, data: Path, **settings: Any) -> dict[str, Any]:
    train = {
        "method": "full", "epochs": 2, "examples_per_step": 8, "learning_rate": 0.003, "precision": "fp32",
        "tokens_per_batch": 300, "evaluate_every": 4,
    }  # fmt: skip
    return {
        "name": "together",
        "data": {"source": str(data), "question": "Description", "answer": "Doctor", "validation": 0.1},
        "model": {"base": str(model), "max_length": 256},
        "train": train | settings,
    }


@pytest.fixture(scope="module")
def alone(crew: Crew, prepared: Path, llama_folder: Path, data_file: Path) -> Path:
    """The training in one process."""
    file, run = crew.folder / "alone.yaml", crew.folder / "alone"
    file.write_text(yaml.safe_dump(raw(llama_folder, data_file)))
    shutil.copytree(prepared, run)
    assert crew.train(file, run, 0)["processes"]["-1"]["code"] == 0
    return run


@pytest.fixture
def place(prepared: Path, llama_folder: Path, data_file: Path, tmp_path: Path) -> Any:
    """A function from a name and settings of training to a recipe's file and a prepared run folder."""

    def made(name: str, **settings: Any) -> tuple[Path, Path]:
        file, run = tmp_path / f"{name}.yaml", tmp_path / name
        file.write_text(yaml.safe_dump(raw(llama_folder, data_file, **settings)))
        if not run.exists():
            shutil.copytree(prepared, run)
        return file, run

    return made


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same_curve(one: Path, other: Path) -> None:
    """The same steps with the same losses, validations, norms and counts."""
    assert len(rows(one)) == len(rows(other)) > 10
    for row, twin in zip(rows(one), rows(other), strict=True):
        assert row.keys() == twin.keys()
        for key in ("step", "answer_tokens", "total_tokens"):
            assert row[key] == twin[key], key
        for key in {"loss", "validation_loss", "grad_norm", "learning_rate"} & row.keys():
            assert twin[key] == pytest.approx(row[key], rel=CLOSE), (key, row["step"])


def same_weights(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    mine, theirs = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        assert torch.allclose(weight, theirs[name], atol=tolerance), name


@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_processes_give_the_curve_of_one_whole_or_in_parts(method: str, crew: Crew, place: Any) -> None:
    settings: dict[str, Any] = {"method": method, "learning_rate": 0.003 if method == "full" else 0.01}
    file, one = place("one", **settings)
    assert crew.train(file, one, 0)["processes"]["-1"]["code"] == 0
    for name, distributed in WAYS.items():
        file, two = place(name, **settings, distributed=distributed)
        answer = crew.train(file, two, 2)
        assert [process["code"] for process in answer["processes"].values()] == [0, 0], answer
        assert "steps" in answer["processes"]["0"]["said"] and not answer["processes"]["1"]["said"], answer
        same_curve(one, two)
        same_weights(one, two)
        assert json.loads((two / "train.json").read_text())["ranks"] == 2
        assert pipeline.verify(two) == []


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_process_killed_in_a_step_costs_nothing_that_was_committed(way: str, crew: Crew, place: Any) -> None:
    file, whole = place("whole", distributed=WAYS[way])
    _, killed = place("killed", distributed=WAYS[way])
    assert crew.train(file, whole, 2)["failed"] == ""
    answer = crew.train(file, killed, 2, restarts=1, die=1, step=7)  # the newest checkpoint is of step 4
    assert answer["failed"] == "" and [p["code"] for p in answer["processes"].values()] == [0, 0], answer
    assert "step 5" not in answer["processes"]["0"]["said"]
    assert [row["loss"] for row in rows(killed)] == [row["loss"] for row in rows(whole)]
    same_weights(whole, killed, tolerance=0.0)
    assert pipeline.verify(killed) == []


@pytest.mark.parametrize(
    ("way", "before", "after"), [("ddp", 2, 0), ("ddp", 0, 2), ("fsdp", 2, 1), ("fsdp", 2, 0), ("fsdp", 1, 2)]
)
def test_a_checkpoint_of_some_processes_is_gone_on_from_in_others(
    way: str, before: int, after: int, crew: Crew, place: Any, alone: Path
) -> None:
    file, moved = place("moved", distributed=WAYS[way])
    first = crew.train(file, moved, before, die=0, step=7)
    assert not (moved / "train.json").exists(), first
    newest = checkpoints.newest(moved / "checkpoints")
    assert newest is not None and (newest / "sharded").is_dir() == (way == "fsdp")
    pickled = {path.name for path in newest.rglob("*") if path.suffix not in (".safetensors", ".json", ".jsonl")}
    assert pickled <= {"scheduler.pt", "optimizer.pt", "rng_state.pth", "rng_state_0.pth", "rng_state_1.pth"}
    answer = crew.train(file, moved, after, "--resume")
    assert all(process["code"] == 0 for process in answer["processes"].values()), answer
    same_curve(alone, moved)
    same_weights(alone, moved)


def test_one_process_that_is_asked_to_stop_stops_all_with_a_checkpoint(crew: Crew, place: Any) -> None:
    file, run = place("stopped")
    answer = crew.train(file, run, 2, signal=3)
    assert [process["code"] for process in answer["processes"].values()] == [3, 3], answer
    assert "stopped at step 3" in answer["processes"]["0"]["said"] and "--resume" in answer["processes"]["0"]["said"]
    newest = checkpoints.newest(run / "checkpoints")
    assert newest and checkpoints.step_of(newest) == 3


def test_a_loss_that_diverges_and_patience_end_all_processes_alike(crew: Crew, place: Any) -> None:
    file, one = place("one", learning_rate=1.0, epochs=6, warmup=0, clip=0, evaluate_every=2)
    _, two = place("two", learning_rate=1.0, epochs=6, warmup=0, clip=0, evaluate_every=2)
    alone, both = crew.train(file, one, 0), crew.train(file, two, 2)
    codes = [process["code"] for process in both["processes"].values()]
    assert codes == [alone["processes"]["-1"]["code"]] * 2, (alone, both)
    assert len(rows(two)) == len(rows(one))


def test_what_several_processes_cant_do_is_said_in_one_line(crew: Crew, place: Any) -> None:
    file, run = place("refused")
    answer = crew.train(file, run, 2, "--fit")
    assert [process["code"] for process in answer["processes"].values()] == [2, 2]
    said = [process["said"] for process in answer["processes"].values()]
    assert said[0].count("\n") == 1 and "--fit: started as one of 2 processes" in said[0] and not said[1]
