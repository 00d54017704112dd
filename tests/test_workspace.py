from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from residency.errors import UserError
from residency.recipe import Recipe
from residency.workspace import Run, replacing


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", Recipe.load())


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("new, but ha")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("one", "two"):
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_sealed_folder_verifies_until_something_changes(run: Run) -> None:
    run.write_text("data/a.txt", "same size")
    run.write_text("data/b.txt", "b")
    run.write_text("c.txt", "c")
    run.seal()
    assert run.verify() == []
    (run.folder / "data" / "a.txt").write_text("some size")
    (run.folder / "data" / "b.txt").unlink()
    (run.folder / "c.txt").write_text("longer")
    assert run.verify() == [
        "c.txt: 6 bytes, the manifest says 1",
        "data/a.txt: sha256 differs from the manifest",
        "data/b.txt: missing",
    ]


def test_a_second_process_is_told(run: Run) -> None:
    code = (
        "import sys; from pathlib import Path; from residency.workspace import Run\n"
        "with Run(Path(sys.argv[1])).locked(): pass"
    )
    command = [sys.executable, "-c", code, str(run.folder)]
    with run.locked():
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another residency process works in it" in second.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_a_missing_file_names_the_stage_that_makes_it(run: Run) -> None:
    with pytest.raises(UserError, match="`residency train` has been through"):
        run.read_json("train.json", "train")


def test_a_folder_without_a_recipe_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Run.open(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no recipe\.yaml"):
        Run.open(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a folder that can be written to"):
        Run.create(tmp_path / "file" / "run", Recipe.load())


def test_overrides_of_a_run_are_kept(run: Run) -> None:
    assert run.load_recipe(["evaluate.questions=3"]).evaluate.questions == 3
    assert run.recipe.evaluate.questions == 3
