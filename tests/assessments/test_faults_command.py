from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from residency import pipeline
from residency.cli import app
from residency.recipe import Recipe
from residency.workspace import Run

LOOP = "Rest and rest and " * 12
COLUMNS = ("loop", "ran to the limit", "empty")


def answer(text: str, stopped: bool = True) -> dict[str, Any]:
    return {"text": text, "tokens": len(text.split()), "stopped": stopped, "answer_nll": 2.0, "loop": False}


def write_answers(folder: Path, tuned: list[dict[str, Any]]) -> None:
    """Answers to the first test questions: the base model's are in order, the tuned model's are given."""
    run = Run.open(folder)
    asked = run.dialogues("test")[: len(tuned)]
    rows = []
    for dialogue, own in zip(asked, tuned, strict=True):
        base = answer(f"A {dialogue.question} needs rest and water. See a doctor if it is worse.")
        rows.append({"row": dialogue.row, "question": dialogue.question, "reference": dialogue.answer}
                    | {"base": base, "base_greedy": base, "tuned": own, "tuned_greedy": own})  # fmt: skip
    run.write_jsonl("evaluation/answers.jsonl", rows)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_file: Path) -> Path:
    """A run of the tutorial's settings with data and answers: six of ten are caught in a loop."""
    values = {
        "name": "small",
        "data": {"source": str(data_file), "question": "Description", "answer": "Doctor"}
        | {"validation": 0.1, "test": 0.25},
        "model": {"base": str(llama_folder), "max_length": 256},
        "prompt": {"end_token": False},
        "train": {"epochs": 1, "examples_per_step": 8},
        "evaluate": {"decoding": "greedy", "resamples": 200},
    }
    folder = tmp_path_factory.mktemp("runs") / "small"
    pipeline.prepare(Recipe.parse(values), folder)
    texts = [dialogue.answer for dialogue in Run.open(folder).dialogues("test")[:10]]
    write_answers(folder, [answer(LOOP, stopped=False)] * 6 + [answer(text) for text in texts[6:9]] + [answer("")])
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(prepared, tmp_path / "small"))


def residency(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["faults", *map(str, arguments)])


def test_every_fault_is_counted_for_base_and_tuned_with_its_interval(folder: Path) -> None:
    done = residency(folder, "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)["faults"]
    of = {one["name"]: one for one in report["categories"]}
    loop = of["loop"]
    assert loop["systems"]["tuned"] | {"low": 0, "high": 0} == {"count": 6, "of": 10, "share": 0.6, "low": 0, "high": 0}
    assert 0.2 < loop["systems"]["tuned"]["low"] < 0.6 < loop["systems"]["tuned"]["high"] < 0.9
    assert (loop["systems"]["base"]["count"], loop["systems"]["reference"]["count"]) == (0, 0)
    assert loop["difference"]["mean"] == pytest.approx(0.6)
    assert loop["difference"]["low"] > 0
    assert sum(own["tuned"] for own in loop["kinds"].values()) == 6
    assert of["empty"]["systems"]["tuned"]["count"] == 1
    assert not of["contradicts reference"]["checked"]
    assert of["contradicts reference"]["systems"]["tuned"] is None
    assert report["worth"][:2] == ["loop", "ran to the limit"]


def test_examples_name_their_rows_and_the_nearest_training_rows(folder: Path) -> None:
    pytest.importorskip("bm25s")
    assert residency(folder).exit_code == 0
    report = Run.open(folder).read_json("evaluation/faults.json", "faults")
    example = report["categories"][0]["examples"][0]
    rows = {row.row: row.question for row in Run.open(folder).dialogues("train")}
    tests = {row.row: row.question for row in Run.open(folder).dialogues("test")}
    assert tests[example["row"]] == example["question"]
    assert all(rows[near["row"]] == near["question"] for near in example["nearest"])
    assert len(example["nearest"]) == 3


def test_people_read_what_stands_behind_a_fault_and_what_is_not_checked(folder: Path) -> None:
    said = residency(folder).stdout
    assert "loop                    0% (0 to 28)" in said
    assert "prompt.end_token is false" in said
    assert "change prompt.end_token: false -> true" in said
    assert "Not checked, since only a judge can tell (--judge URL#MODEL): contradicts reference." in said
    one = residency(folder, "--only", "empty").stdout
    assert "prompt.end_token" not in one
    assert "empty" in one


def test_the_page_shows_the_faults_until_the_answers_are_others(folder: Path) -> None:
    residency(folder)
    assert pipeline.verify(folder) == []
    page = (folder / "report.html").read_text()
    assert '<h2 id="faults">Faults</h2>' in page
    assert "Nothing holds a repetition back" in page
    write_answers(folder, [answer("All is well now.")] * 3)
    assert '<h2 id="faults">' not in pipeline.report(folder).read_text()


def test_fix_writes_a_recipe_that_can_be_run_and_never_over_another_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "better.yaml"
    done = residency(folder, "--fix", "--to", file)
    assert done.exit_code == 0, done.stderr
    recipe = Recipe.load(file)
    before = Run.open(folder).recipe
    assert (recipe.name, recipe.prompt.end_token, recipe.evaluate.decoding) == ("small-fixed", True, "auto")
    assert recipe.train.learning_rate == before.train.learning_rate
    assert recipe.data == before.data  # "See a doctor if it is worse." ends every answer, and is not to be taken out
    assert f"residency run {file} --out {folder}-fixed" in done.stdout
    assert f"residency faults {folder}-fixed --before {folder}" in done.stdout
    text = file.read_text()
    again = residency(folder, "--fix", "--to", file)
    assert again.exit_code == 2
    assert "there already" in again.stderr
    assert file.read_text() == text


def test_fix_of_answers_without_faults_changes_nothing(folder: Path, tmp_path: Path) -> None:
    texts = [dialogue.answer for dialogue in Run.open(folder).dialogues("test")[:10]]
    write_answers(folder, [answer(text) for text in texts])
    done = residency(folder, "--only", "loop", "--fix", "--to", tmp_path / "none.yaml")
    assert done.exit_code == 2
    assert "no change of the recipe is proposed" in done.stderr
    assert not (tmp_path / "none.yaml").exists()


def test_an_earlier_run_shows_how_much_of_each_fault_is_gone(folder: Path, prepared: Path) -> None:
    texts = [dialogue.answer for dialogue in Run.open(folder).dialogues("test")[:10]]
    write_answers(folder, [answer(text) for text in texts[:9]])  # one question fewer
    done = residency(folder, "--before", prepared, "--json")
    assert done.exit_code == 0, done.stderr
    change = json.loads(done.stdout)["faults"]["before"]
    assert (change["questions"], change["only_now"], change["only_before"]) == (9, 0, 1)
    loop = next(one for one in change["categories"] if one["name"] == "loop")
    assert (loop["before"]["count"], loop["now"]["count"]) == (6, 0)
    assert loop["difference"]["high"] < 0
    assert "Against" in residency(folder, "--before", prepared).stdout
    assert f"Against {prepared}" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "lop"), 'did you mean "loop"'),
        (("--to", "x.yaml"), "add --fix"),
        (("--judge", "nowhere"), "URL#MODEL"),
        (("--judge", "http://127.0.0.1:9/v1#model"), "can't be reached"),
        (("--before", "no/such/run"), "no such folder"),
    ],
)
def test_what_is_asked_for_wrongly_is_one_line(folder: Path, arguments: tuple[str, str], message: str) -> None:
    done = residency(folder, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (folder / "evaluation" / "faults.json").exists()


def test_a_run_without_answers_names_the_stage_that_makes_them(folder: Path) -> None:
    shutil.rmtree(folder / "evaluation")
    done = residency(folder)
    assert done.exit_code == 2
    assert "`residency evaluate`" in done.stderr


def test_damaged_answers_are_named(folder: Path) -> None:
    (folder / "evaluation" / "answers.jsonl").write_text('{"row": 1, "tuned": {"text": "a"}}\n')
    done = residency(folder)
    assert done.exit_code == 2
    assert "damaged" in done.stderr
