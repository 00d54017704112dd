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


@pytest.fixture(scope="module")
def pair(crew: Crew, alone: Path, prepared: Path) -> Path:
    """The same in two processes."""
    run = crew.folder / "pair"
    shutil.copytree(prepared, run)
    answer = crew.train(alone.with_suffix(".yaml"), run, 2)
    assert went_well(answer), answer
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


def went_well(answer: dict[str, Any]) -> bool:
    """Whether each process came to its end, and only the first spoke."""
    by_rank = answer["processes"]
    spoke = {rank for rank, process in by_rank.items() if process["said"]}
    return not answer["failed"] and all(one["code"] == 0 for one in by_rank.values()) and spoke <= {"0", "-1"}


def test_two_processes_give_the_curve_of_one(alone: Path, pair: Path) -> None:
    same_curve(alone, pair)
    same_weights(alone, pair)
    assert json.loads((pair / "train.json").read_text())["ranks"] == 2
    assert pipeline.verify(pair) == []


def test_so_they_do_when_each_holds_a_part_of_the_weights(alone: Path, crew: Crew, place: Any) -> None:
    file, run = place("fsdp", distributed=WAYS["fsdp"])
    answer = crew.train(file, run, 2)
    assert went_well(answer), answer
    same_curve(alone, run)
    same_weights(alone, run)
    assert pipeline.verify(run) == []


@pytest.mark.slow
def test_adapters_learn_the_same_in_two_processes_whole_or_in_parts(crew: Crew, place: Any) -> None:
    file, one = place("one", method="lora", learning_rate=0.01)
    assert went_well(crew.train(file, one, 0))
    for way in ("ddp", "again"):
        file, two = place(way, method="lora", learning_rate=0.01, distributed=WAYS[way])
        answer = crew.train(file, two, 2)
        assert went_well(answer), answer
        same_curve(one, two)
        same_weights(one, two)
        assert len(load_file(two / "adapter" / "adapter_model.safetensors")) == 28


@pytest.mark.fault("SIGKILL of one rank in a step", "train in torchrun", "elastic starts it again; the same curve")
@pytest.mark.parametrize("way", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_process_killed_in_a_step_costs_nothing_that_was_committed(
    way: str, crew: Crew, place: Any, alone: Path, pair: Path
) -> None:
    file, killed = place("killed", distributed=WAYS[way])
    answer = crew.train(file, killed, 2, restarts=1, die=1, step=7)  # the newest checkpoint is of step 4
    assert went_well(answer), answer
    assert "No checkpoint" not in answer["processes"]["0"]["said"]
    same_curve(alone, killed)
    if way == "ddp":  # to the bit, as two processes that nobody killed
        assert [row.get("loss") for row in rows(killed)] == [row.get("loss") for row in rows(pair)]
        same_weights(pair, killed, tolerance=0.0)
    assert pipeline.verify(killed) == []


@pytest.mark.parametrize(
    ("way", "before", "after"),
    [
        ("ddp", 2, 0),
        pytest.param("ddp", 0, 2, marks=pytest.mark.slow),
        pytest.param("fsdp", 2, 0, marks=pytest.mark.slow),
        pytest.param("fsdp", 1, 2, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_of_some_processes_is_gone_on_from_in_others(
    way: str, before: int, after: int, crew: Crew, place: Any, alone: Path
) -> None:
    file, moved = place("moved", distributed=WAYS[way])
    first = crew.train(file, moved, before, die=0, step=7)
    assert not (moved / "train.json").exists(), first
    newest = checkpoints.newest(moved / "checkpoints")
    assert newest is not None and (newest / "sharded").is_dir() == (way == "fsdp")
    plain = (".safetensors", ".json", ".jsonl")
    loaded = {path.name for path in newest.rglob("*") if path.is_file() and path.suffix not in plain}
    assert loaded <= {"scheduler.pt", "optimizer.pt", "rng_state.pth", "rng_state_0.pth", "rng_state_1.pth"}
    answer = crew.train(file, moved, after, "--resume")
    assert went_well(answer), answer
    same_curve(alone, moved)
    same_weights(alone, moved)


def test_one_process_that_is_asked_to_stop_stops_all_with_a_checkpoint(crew: Crew, place: Any) -> None:
    file, run = place("stopped")
    answer = crew.train(file, run, 2, signal=3)
    assert [process["code"] for process in answer["processes"].values()] == [3, 3], answer
    assert "stopped at step 3" in answer["processes"]["0"]["said"] and "--resume" in answer["processes"]["0"]["said"]
    newest = checkpoints.newest(run / "checkpoints")
    assert newest and checkpoints.step_of(newest) == 3


@pytest.mark.parametrize(
    ("ends", "settings"),
    [
        ("divergence at step", {"learning_rate": 1.0, "epochs": 6, "warmup": 0, "clip": 0, "evaluate_every": 2}),
        ("", {"learning_rate": 0.3, "epochs": 8, "schedule": "constant", "evaluate_every": 2, "patience": 2}),
    ],
)
def test_a_loss_that_diverges_and_patience_end_all_processes_as_one(
    ends: str, settings: dict[str, Any], crew: Crew, place: Any
) -> None:
    file, one = place("one", **settings)
    _, two = place("two", **settings)
    alone, both = crew.train(file, one, 0), crew.train(file, two, 2)
    codes = [process["code"] for process in both["processes"].values()]
    assert codes == [alone["processes"]["-1"]["code"]] * 2, (alone, both)
    assert len(rows(two)) == len(rows(one)) < settings["epochs"] * 6
    assert ends in both["processes"]["0"]["said"]


def test_what_several_processes_cant_do_is_said_in_one_line(crew: Crew, place: Any) -> None:
    file, run = place("refused")
    answer = crew.train(file, run, 2, "--fit")
    assert [process["code"] for process in answer["processes"].values()] == [2, 2]
    said = [process["said"] for process in answer["processes"].values()]
    assert said[0].count("\n") == 1 and "--fit: started as one of 2 processes" in said[0] and not said[1]
