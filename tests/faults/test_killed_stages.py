"""Prepare, evaluate and export killed by SIGKILL at random file operations (training: train/test_checkpoints.py)."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from safetensors import safe_open

from residency.errors import UserError
from residency.workspace import Run
from warm import Lives

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forks of a warm process"),
    pytest.mark.timeout(1500),
]
KILLS = [pytest.param(3), pytest.param(20, marks=pytest.mark.slow)]
CLOCK = ("seconds", "tokens_per_second", "first_token_seconds", "speeds", "table")


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    with Lives.warm() as warm:
        yield warm


@dataclass(frozen=True)
class Stages:
    """A small run as it was before each stage and after it, and its recipe."""

    recipe: Path
    earlier: Path  # prepared under another seed
    prepared: Path
    trained: Path
    evaluated: Path
    exported: Path
    moments: dict[str, int]


@pytest.fixture(scope="module")
def stages(lives: Lives, llama_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    folder = tmp_path_factory.mktemp("stages")
    raw: dict[str, Any] = {
        "name": "small",
        "data": {"source": str(data_file), "question": "Description", "answer": "Doctor", "validation": 0.1},
        "model": {"base": str(llama_folder), "max_length": 256},
        "train": {"max_steps": 2, "examples_per_step": 8, "learning_rate": 0.01, "precision": "fp32"},
        "evaluate": {"questions": 4, "max_new_tokens": 8, "resamples": 100, "off_topic": False},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw))
    (folder / "other.yaml").write_text(yaml.safe_dump({**raw, "data": {**raw["data"], "seed": 7}}))
    moments = {}

    def after(name: str, begun: Path | None, command: str, *rest: str, recipe: str = "recipe.yaml") -> Path:
        target = Path(shutil.copytree(begun, folder / name)) if begun else folder / name
        arguments = rest or (str(folder / recipe), "--out", str(target))
        arguments = tuple(str(target) if one == "RUN" else one for one in arguments)
        life = lives.lead(command, *arguments, folder=target)
        assert life["code"] == 0, life["errors"]
        moments[command] = life["moments"]
        return target

    earlier = after("earlier", None, "prepare", recipe="other.yaml")
    prepared = after("prepared", earlier, "prepare")
    trained = after("trained", prepared, "train")
    evaluated = after("evaluated", trained, "evaluate", "RUN")
    exported = after("exported", evaluated, "export", "RUN")
    return Stages(folder / "recipe.yaml", earlier, prepared, trained, evaluated, exported, moments)


def killed(
    lives: Lives,
    argv: Callable[[Path], list[str]],
    begun: Path,
    moments: int,
    kills: int,
    check: Callable[[Path], None],
) -> list[Path]:
    """The stage killed so many times, again and again in one folder until it comes to its end; then in another."""
    chance, count, ended = random.Random(3), 0, []
    while count < kills:
        folder = Path(shutil.copytree(begun, begun.parent / f"killed-{begun.name}-{kills}-{len(ended)}"))
        life: dict[str, Any] = {"status": -9}
        while life["status"] == -9:
            moment = chance.randint(1, moments) if count < kills else None
            life = lives.lead(*argv(folder), folder=folder, die=moment, torn=chance.random() < 0.5)
            if life["status"] == -9:
                count += 1
                check(folder)
        assert life["code"] == 0, life["errors"]
        assert Run(folder).verify() == []
        assert not [path for path in folder.rglob(".*") if path.name != ".lock"], "what a kill left is cleared away"
        ended.append(folder)
    return ended


def whole_or_absent(folder: Path) -> None:
    """Every file under its own name can be read to its end, but for a last line of what grows by lines."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not path.is_file() or hidden or "partial" in path.parts:
            continue
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text("utf-8").splitlines())
        elif path.suffix == ".parquet":
            pl.read_parquet(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118


def truthful(folder: Path) -> None:
    """`verify` says what can be seen without it."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        with pytest.raises(UserError, match=r"manifest\.json: not there"):
            Run(folder).verify()
        return
    entries = json.loads(manifest.read_text("utf-8"))["files"]
    wrong = {name for name, entry in entries.items() if digest(folder / name) != entry["sha256"]}
    assert {line.partition(":")[0] for line in Run(folder).verify()} == wrong


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def contents(folder: Path, *rooms: str) -> dict[str, str]:
    """The hash of each file in some folders of a run."""
    files = [path for room in rooms for path in (folder / room).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


@pytest.mark.fault("SIGKILL at random file operations", "prepare", "the next prepare writes the same bytes")
@pytest.mark.parametrize("kills", KILLS)
def test_a_prepare_that_is_killed_leaves_no_mixture_behind(
    kills: int, lives: Lives, stages: Stages, record_property: Callable[[str, object], None]
) -> None:
    old, new = (contents(folder, "data") for folder in (stages.earlier, stages.prepared))

    def check(folder: Path) -> None:
        whole_or_absent(folder)
        truthful(folder)
        now = contents(folder, "data")
        if "data/report.json" in now:  # what it stands for is all there, of the one recipe or of the other
            assert now in (old, new)
        else:  # and without it, nothing is learnt from what lies there
            life = lives.live(stages.recipe, folder)
            assert life["code"] == 2 and "data" in life["errors"] and "not there" in life["errors"]

    for folder in killed(
        lives,
        lambda folder: ["prepare", str(stages.recipe), "--out", str(folder)],
        stages.earlier,
        stages.moments["prepare"],
        kills,
        check,
    ):
        assert contents(folder, "data") == new
    record_property("injected", kills)


@pytest.mark.fault("SIGKILL at random file operations", "evaluate", "it goes on, and the answers are the same")
@pytest.mark.parametrize("kills", KILLS)
def test_an_evaluation_that_is_killed_goes_on_to_the_same_answers(
    kills: int, lives: Lives, stages: Stages, record_property: Callable[[str, object], None]
) -> None:
    before = contents(stages.trained, "data", "adapter", "model")
    changes = "model/generation_config.json"  # gets the decoding that was chosen

    def check(folder: Path) -> None:
        whole_or_absent(folder)
        truthful(folder)
        now = contents(folder, "data", "adapter", "model")
        assert {name for name in before if now[name] != before[name]} <= {changes}
        if (folder / "evaluation" / "scores.json").is_file():
            assert said(folder) == said(stages.evaluated)

    for folder in killed(
        lives, lambda folder: ["evaluate", str(folder)], stages.trained, stages.moments["evaluate"], kills, check
    ):
        assert said(folder) == said(stages.evaluated)
        assert digest(folder / changes) == digest(stages.evaluated / changes)
    record_property("injected", kills)


@pytest.mark.fault("SIGKILL at random file operations", "export", "the export is whole or absent; the next is the same")
@pytest.mark.parametrize("kills", KILLS)
def test_an_export_that_is_killed_is_whole_or_absent(
    kills: int, lives: Lives, stages: Stages, record_property: Callable[[str, object], None]
) -> None:
    before = contents(stages.evaluated, "data", "adapter", "model", "evaluation")
    made = contents(stages.exported, "export")

    def check(folder: Path) -> None:
        truthful(folder)
        assert contents(folder, "data", "adapter", "model", "evaluation") == before
        assert contents(folder, "export/safetensors") in ({}, made)

    # Over an export that is there already, as most are.
    for folder in killed(
        lives, lambda folder: ["export", str(folder)], stages.exported, stages.moments["export"], kills, check
    ):
        assert contents(folder, "export") == made
    record_property("injected", kills)


def said(folder: Path) -> Any:
    """Answers and scores, without what the clock decides."""
    rows = [json.loads(line) for line in (folder / "evaluation" / "answers.jsonl").read_text("utf-8").splitlines()]
    scores = json.loads((folder / "evaluation" / "scores.json").read_text("utf-8"))
    return timeless([rows, scores])


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(own) for name, own in value.items() if name not in CLOCK}
    return [timeless(one) for one in value] if isinstance(value, list) else value
