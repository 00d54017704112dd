from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.errors import UserError
from residency.recipe import Recipe
from residency.workspace import Dialogue, Run, replacing


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


def test_a_folder_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new, but ha")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_linked_folder_is_replaced_and_what_it_points_to_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    target = tmp_path / "folder"
    target.symlink_to(elsewhere)
    with replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]


def test_what_a_killed_process_left_beside_a_folder_is_gone_after_the_next_write(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "old").write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from residency.workspace import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.mkdir(); (temporary / 'half').write_text('ha'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == 9
    assert [path.name for path in target.iterdir()] == ["old"]
    with replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.fixed_dictionaries({"text": st.text(st.sampled_from('a \u2028\u2029\x85\x0b\x0c\x1e\r\n\t"é'))})))
def test_rows_are_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]
) -> None:
    run = Run(tmp_path_factory.mktemp("run"))
    run.write_jsonl("rows.jsonl", rows)
    assert run.read_jsonl("rows.jsonl", "prepare") == rows


def test_a_dialogue_is_read_with_its_earlier_turns(run: Run) -> None:
    row = {
        "row": 3,
        "question": "How?",
        "answer": "So.",
        "turn": 1,
        "system": "Be kind.",
        "history": [["Why?", "Thus."]],
    }
    run.write_jsonl("data/train.jsonl", [row, {"row": 4, "question": "", "answer": "Plain text."}])
    assert list(run.dialogues("train")) == [
        Dialogue(3, "How?", "So.", 1, "Be kind.", (("Why?", "Thus."),)),
        Dialogue(4, "", "Plain text."),
    ]


def test_a_run_is_sealed_wherever_it_lies_and_its_own_checkpoints_are_left_out(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "checkpoints" / "run", Recipe.load())
    run.write_text("checkpoints/step-1/state", "passing")
    run.seal()
    assert list(run.read_json("manifest.json", "run")["files"]) == ["recipe.yaml"]
    (run.folder / "recipe.yaml").unlink()
    assert run.verify() == ["recipe.yaml: missing"]


@pytest.mark.parametrize("text", ['{"files": {"a', "\xff"])
def test_a_damaged_file_of_a_run_is_a_user_error(run: Run, text: str) -> None:
    run.write_bytes("manifest.json", text.encode("latin-1"))
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        run.verify()
    run.write_bytes("data/train.jsonl", b'{"row": 1}\n' + text.encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.jsonl: damaged.*`residency prepare`"):
        list(run.dialogues("train"))


def test_dialogues_are_read_as_they_are_asked_for(run: Run) -> None:
    rows = [{"row": n, "question": f"Wh\u00fd {n}?\u2028", "answer": "So."} for n in range(1, 6)]
    run.write_jsonl("data/train.jsonl", rows)
    found = run.dialogues("train")
    assert (len(found), found[1].question, found[-1].row) == (5, "Wh\u00fd 2?\u2028", 5)
    assert [dialogue.row for dialogue in found[1:4]] == [2, 3, 4]
    with pytest.raises(IndexError):
        found[5]
    run.write_jsonl("data/test.jsonl", [])
    assert list(run.dialogues("test")) == []


def test_a_split_that_was_cut_short_is_found_at_its_last_line(run: Run) -> None:
    run.write_bytes("data/train.jsonl", b'{"row": 1, "question": "a", "answer": "b"}\n{"row": 2, "quest')
    found = run.dialogues("train")
    assert (len(found), found[0].row) == (2, 1)
    with pytest.raises(UserError, match=r"train\.jsonl: damaged.*`residency prepare`"):
        found[1]
    run.write_bytes("data/train.jsonl", b'{"row": 1}\n')
    with pytest.raises(UserError, match=r"train\.jsonl: damaged"):
        run.dialogues("train")[0]


def test_what_a_later_stage_left_is_forgotten(run: Run) -> None:
    run.write_text("evaluation/scores.json", "{}")
    run.write_text("report.html", "")
    run.forget("evaluation", "report.html", "never-there")
    assert [path.name for path in run.folder.iterdir()] == ["recipe.yaml"]


def test_votes_stay_when_the_rest_of_an_evaluation_goes(run: Run) -> None:
    for name in ("scores.json", "votes.jsonl", "partial/answers.jsonl"):
        run.write_text(f"evaluation/{name}", "{}")
    run.forget("evaluation")
    assert [path.name for path in (run.folder / "evaluation").iterdir()] == ["votes.jsonl"]


@pytest.mark.fault("a flipped byte, a lost file, a longer one", "verify", "each is named")
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


def test_a_run_that_fails_lets_go_of_its_folder(run: Run) -> None:
    with pytest.raises(RuntimeError), run.locked():
        raise RuntimeError
    with run.locked():
        pass


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
