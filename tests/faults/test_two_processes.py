"""Two processes on one run folder, and one that died while it held it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from residency.cli import app
from residency.recipe import Recipe
from residency.workspace import Run

HOLDER = (
    "import sys; from pathlib import Path; from residency.workspace import Run\n"
    "with Run(Path(sys.argv[1])).locked():\n"
    "    print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process works in the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def run(small_recipe: dict[str, Any], tmp_path: Path) -> Run:
    """A run folder with files that look like those of a trained run."""
    run = Run.create(tmp_path / "run", Recipe.parse(small_recipe))
    run.write_json("data/report.json", {})
    run.write_json("train.json", {})
    run.write_json("model/config.json", {})
    run.seal()
    return run


def files(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.fault("two processes on one run folder", "every stage", "the second is told in a line and changes nothing")
def test_the_second_process_is_told_in_one_line_and_changes_no_file(
    run: Run, tmp_path: Path, small_recipe: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    other = tmp_path / "other.yaml"  # another recipe for the same folder: it must not replace the one at work
    other.write_text(yaml.safe_dump({**small_recipe, "data": {**small_recipe["data"], "seed": 9}}))
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({**small_recipe, "train": {**small_recipe["train"], "epochs": 9}}))
    folder = str(run.folder)
    commands = [
        ["prepare", str(other), "--out", folder],
        ["train", str(mine), "--out", folder],
        ["evaluate", folder, "--set", "evaluate.questions=2"],
        ["report", folder],
        ["export", folder],
    ]
    before = files(run)
    with held(run.folder):
        for command in commands:
            result = CliRunner().invoke(app, command)
            assert result.exit_code == 2, result.output
            (line,) = [line for line in result.output.splitlines() if line.startswith("residency: ")]
            assert "another residency process works in it; wait, or use --out" in line
        assert files(run) == before
        assert run.verify() == []
    record_property("injected", len(commands))


@pytest.mark.fault(
    "a process is killed while it holds the folder", "every stage", "the next one may work in it at once"
)
def test_the_lock_of_a_process_that_died_holds_nobody_up(run: Run) -> None:
    with held(run.folder) as process:
        process.kill()
        process.wait()
        with run.locked():
            pass
