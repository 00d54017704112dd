"""A disk that fills up, and one that takes nothing, in each stage (full while training: train/test_checkpoints.py)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from disks import fill, read_only, small_disk
from residency.workspace import Run
from warm import Lives

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forks of a warm process")
MEGABYTES = 4
ROOM = (0, 4_096, 12_288, 24_576)  # bytes that are left on the disk


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    with Lives.warm() as warm:
        yield warm


@pytest.fixture(scope="module")
def recipe(llama_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw: dict[str, Any] = {
        "name": "small",
        "data": {"source": str(data_file), "question": "Description", "answer": "Doctor", "validation": 0.1},
        "model": {"base": str(llama_folder), "max_length": 256},
        "train": {"max_steps": 2, "examples_per_step": 8, "learning_rate": 0.01, "precision": "fp32"},
        "evaluate": {"questions": 4, "max_new_tokens": 8, "resamples": 100, "off_topic": False},
    }
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


@pytest.fixture(scope="module")
def trained(lives: Lives, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    for command in ("prepare", "train"):
        life = lives.live(recipe, folder, command=command)
        assert life["code"] == 0, life["errors"]
    return folder


def command(stage: str, recipe: Path, folder: Path) -> list[str]:
    return [stage, str(recipe), "--out", str(folder)] if stage in ("prepare", "train") else [stage, str(folder)]


def told(life: dict[str, Any], folder: Path) -> str:
    """The one line that a refused stage ends in."""
    assert life.get("code") == 2, life
    (line,) = [line for line in life["errors"].splitlines() if line.startswith("residency: ")]
    assert f"run folder {folder}: can't be written to (" in line
    return line


@pytest.mark.fault("the disk is full", "prepare, evaluate, export", "one line; with room again, the stage ends well")
@pytest.mark.parametrize("stage", ["prepare", "evaluate", "export"])
def test_a_full_disk_is_one_line_and_costs_nothing_that_was_written(
    stage: str,
    lives: Lives,
    recipe: Path,
    trained: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with small_disk(tmp_path / "disk", MEGABYTES) as disk:
        folder = (disk or tmp_path) / "run"
        if stage != "prepare":
            shutil.copytree(trained, folder)
        before, refused = model_of(folder), 0
        for left in ROOM:
            filler = fill(disk, left) if disk else None
            wish = {} if disk else {"limit": max(left // 16, 1)}  # no file may be larger
            life = lives.lead(*command(stage, recipe, folder), folder=folder, **wish)
            if life.get("code") == 0 and left:  # there was room enough
                break
            line, refused = told(life, folder), refused + 1
            assert "free some space, then go on with `residency" in line
            assert model_of(folder) == before
            if filler:
                filler.unlink()
        if filler:
            filler.unlink(missing_ok=True)
        life = lives.lead(*command(stage, recipe, folder), folder=folder)
        assert life["code"] == 0, life["errors"]
        assert Run(folder).verify() == []
        assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
    record_property("injected", refused)


def model_of(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in (folder / "model").glob("*")
        if path.name != "generation_config.json"  # gets the decoding that is chosen
    }


@pytest.mark.fault("the run folder is read-only", "every stage", "one line, nothing changed; `verify` and reading work")
def test_a_read_only_run_folder_is_one_line_and_can_still_be_verified(
    lives: Lives, recipe: Path, trained: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    stages = ("prepare", "train", "evaluate", "report", "export")
    with small_disk(tmp_path / "disk", MEGABYTES) as disk:
        folder = Path(shutil.copytree(trained, (disk or tmp_path) / "run"))
        with read_only(folder, disk) as refused:
            if not refused:
                pytest.skip("root writes everywhere, and no file system can be mounted here")
            for stage in stages:
                argv = command(stage, recipe, folder)
                told(
                    lives.lead(*argv, *(["--set", "data.seed=5"] if stage == "prepare" else []), folder=folder), folder
                )
            assert lives.lead("verify", str(folder), folder=folder)["code"] == 0
        assert Run(folder).verify() == []
    record_property("injected", len(stages))
