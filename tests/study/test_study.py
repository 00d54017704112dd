from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import StopsAt
from residency import models, pipeline
from residency.assessments import study as assessment
from residency.errors import Interrupted, UserError
from residency.progress import Silent
from residency.recipe import Recipe
from residency.study.measure import METRICS
from residency.workspace import Run

pytest.importorskip("bm25s", reason="needs residency[retrieve]")

WAYS = "base,instruction,few-shot,bm25,lora,tuned-bm25"


class Listens(Silent):
    """Keeps what is said; stops, as Ctrl-C would, when the task `at` goes on."""

    def __init__(self, at: str = "") -> None:
        self.at, self.heard = at, []  # type: ignore[var-annotated]

    def say(self, text: str) -> None:
        self.heard.append(text)

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        if self.at and task == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def recipe(llama_folder: Path, data_file: Path) -> Recipe:
    """A few steps that teach the small chat model much."""
    return Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(data_file), "question": "Description", "answer": "Doctor", "validation": 0.1},
            "model": {"base": str(llama_folder), "max_length": 256},
            "train": {"epochs": 4, "examples_per_step": 8, "learning_rate": 0.01},
            "evaluate": {"questions": 4, "max_new_tokens": 24, "resamples": 100, "decoding": "greedy"},
            "study": {"neighbours": 5},
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Path:
    """A finished study that was stopped twice: in its training, and at the answers of a later way."""
    folder = tmp_path_factory.mktemp("studies") / "small"
    with pytest.raises(Interrupted, match=r"^training stopped at step 5 of 24; go on with `residency study RECIPE"):
        assessment.study(recipe, folder, StopsAt(5), ways=WAYS)
    base = (folder / "ways" / "base.json").read_bytes()
    with pytest.raises(Interrupted, match=r"^stopped; go on with `residency study RECIPE --out"):
        assessment.study(recipe, folder, Listens("Answers, Tuned with retrieval"), ways=WAYS)
    assert not (folder / "study.json").exists()
    lora = (folder / "ways" / "lora.json").read_bytes()
    assessment.study(recipe, folder, ways=WAYS)
    assert (folder / "ways" / "base.json").read_bytes() == base
    assert (folder / "ways" / "lora.json").read_bytes() == lora
    return folder


@pytest.fixture
def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "study.json").read_text())  # type: ignore[no-any-return]


def test_every_way_has_its_quality_with_intervals_and_its_costs(found: dict[str, Any]) -> None:
    assert list(found["ways"]) == WAYS.split(",")
    for name, way in found["ways"].items():
        assert set(way["quality"]) == set(METRICS)
        assert all(one["low"] - 1e-9 <= one["mean"] <= one["high"] + 1e-9 for one in way["quality"].values())
        assert set(way["less"]) == set(found["ways"]) - {name}
        assert way["answer"]["alone_seconds"] > 0 and way["answer"]["batch_seconds"] > 0
        assert way["answer"]["prompt_tokens"] > 0
    assert found["ways"]["base"]["build"] == {"seconds": 0, "peak_bytes": 0}
    assert found["ways"]["bm25"]["build"]["seconds"] > 0


def test_what_is_learnt_shows_and_the_training_is_an_ordinary_run_on_the_same_data(
    found: dict[str, Any], folder: Path
) -> None:
    less = found["ways"]["lora"]["less"]["base"]["answer_nll"]
    assert less["high"] < -0.2
    # How so small a model answers hangs on the processor's rounding; where it loops, training is not worth it.
    trained = [found["ways"][name]["less"]["base"] for name in ("lora", "tuned-bm25")]
    assert found["verdict"]["worth_it"] == any(
        one["repetition"]["low"] <= 0 <= one["rouge_l"]["high"] for one in trained
    )
    train = json.loads((folder / "lora" / "train.json").read_text())
    assert found["ways"]["lora"]["build"] == {"seconds": train["seconds"], "peak_bytes": train["peak_memory_bytes"]}
    assert found["ways"]["tuned-bm25"]["build"]["seconds"] > train["seconds"]
    for split in ("train", "validation", "test"):
        assert (folder / "lora/data" / f"{split}.jsonl").read_bytes() == (folder / f"data/{split}.jsonl").read_bytes()
    assert pipeline.verify(folder / "lora") == []
    assert pipeline.verify(folder) == []


def test_the_likelihood_is_of_the_same_reference_tokens_in_every_way(folder: Path) -> None:
    tokens = [json.loads(path.read_text())["tokens"] for path in (folder / "ways").glob("*.json")]
    assert len(tokens) == 6
    assert all(own == tokens[0] for own in tokens)
    assert max(tokens[0]) == 24  # answers are longer than what is reserved for them


def test_prompts_hold_training_answers_alone_and_fit(recipe: Recipe, folder: Path, found: dict[str, Any]) -> None:
    run = Run.open(folder)
    work = assessment._begin(recipe, run, Silent())
    held_out = {d.answer for split in ("test", "validation") for d in run.dialogues(split)}
    assert held_out
    for name in ("few-shot", "bm25", "instruction"):
        puts = work.asked(assessment.chosen(name)[1], [*work.exam.tests, *work.validation])
        prompts = [work.exam.prompt.text(each.question.question, each.question.before) for each in puts]
        assert not any(answer in prompt for answer in held_out for prompt in prompts)
        lengths = [len(work.exam.prompt.prompt_ids(each.question.question, each.question.before)) for each in puts]
        assert max(lengths) <= 256 - 24
        assert sum(each.taken for each in puts) > 0
    way = found["ways"]["few-shot"]
    assert (way["proposed"], way["taken"] < way["proposed"]) == (5 * 4, True)
    assert "left out whole" in found["notes"][0]


def test_the_page_says_what_to_use_and_shows_answers_side_by_side(found: dict[str, Any], folder: Path) -> None:
    page = (folder / "study.html").read_text()
    assert found["verdict"]["headline"] in html.unescape(page)
    assert page.count("<h4>Reference</h4>") == 3
    assert all(way["label"] in page for way in found["ways"].values())
    assert page.count("<svg") == 2
    assert not re.search(r"<link|<script|<img|(src|href)=\"http|url\(http", page)  # self-contained
    assert "prefers-color-scheme: dark" in page


def test_a_changed_recipe_makes_anew_what_it_changes_and_keeps_the_rest(
    recipe: Recipe, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    fewer = recipe.model_copy(update={"study": recipe.study.model_copy(update={"neighbours": 1})})
    heard = Listens()
    assessment.study(fewer, copy, heard, ways="base,instruction,bm25,lora")
    assert [line for line in heard.heard if line.startswith("Kept: ")] == [
        "Kept: Base model, Written instruction",
        "Kept: LoRA",
    ]
    study = json.loads((copy / "study.json").read_text())
    assert study["ways"]["bm25"]["proposed"] == 4
    assert "tuned-bm25" not in study["ways"]

    slower = fewer.train.model_copy(update={"learning_rate": 0.002, "max_steps": 2})
    heard = Listens()
    assessment.study(fewer.model_copy(update={"train": slower}), copy, heard, ways="base,lora")
    assert [line for line in heard.heard if line.startswith("Kept: ")] == ["Kept: Base model"]
    assert json.loads((copy / "lora" / "train.json").read_text())["steps"] == 2


def test_ways_whose_extra_is_missing_are_left_out_and_said(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assessment, "missing", lambda way: "needs a library" if way.finder else "")
    assessment.study(recipe, tmp_path / "study", ways="base,bm25,few-shot")
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    assert list(study["ways"]) == ["base"]
    assert study["left_out"] == {"Few-shot": "needs a library", "Retrieval by BM25": "needs a library"}
    assert "Left out: Few-shot, which needs a library." in (tmp_path / "study" / "study.html").read_text()


def test_a_template_without_a_place_for_a_system_message_leaves_out_what_needs_one(
    recipe: Recipe, tmp_path: Path, llama_folder: Path
) -> None:
    base = tmp_path / "strict"
    shutil.copytree(llama_folder, base)
    file = base / "chat_template.jinja"
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    file.write_text(refuses + file.read_text("utf-8"), "utf-8")
    strict = recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": str(base)})})
    assessment.study(strict, tmp_path / "study", ways="base,instruction,few-shot,bm25")
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    assert list(study["ways"]) == ["base", "few-shot"]
    assert "system message" in study["left_out"]["Retrieval by BM25"]


def test_what_a_study_cant_be_made_of_is_refused_before_anything_is_trained(recipe: Recipe, tmp_path: Path) -> None:
    nothing_held_out = recipe.model_copy(update={"data": recipe.data.model_copy(update={"test": 0.0})})
    with pytest.raises(UserError, match="no question is held out"):
        assessment.study(nothing_held_out, tmp_path / "one", ways="base")
    long = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"max_new_tokens": 256})})
    with pytest.raises(UserError, match="leaves no room for a prompt"):
        assessment.study(long, tmp_path / "two", ways="base")
    texts = recipe.data.model_copy(update={"question": None, "answer": None, "text": "Doctor"})
    with pytest.raises(UserError, match="plain texts have no questions"):
        assessment.study(recipe.model_copy(update={"data": texts}), tmp_path / "three", ways="base")
    dpo = recipe.model_copy(update={"train": recipe.train.model_copy(update={"objective": "dpo"})})
    with pytest.raises(UserError, match="objective is dpo"):
        assessment.study(dpo, tmp_path / "four", ways="base")
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a run"):
        assessment.study(recipe, run, ways="base")


def test_a_test_row_that_slipped_into_training_stops_the_study(recipe: Recipe, tmp_path: Path) -> None:
    pipeline.prepare(recipe, tmp_path)
    train, test = (tmp_path / "data" / f"{name}.jsonl" for name in ("train", "test"))
    leaked = test.read_text("utf-8").splitlines()[0] + "\n"
    lines = train.read_text("utf-8").splitlines(keepends=True)
    # As long as before, so that the prepared data is taken for what it was.
    padded = (
        leaked.rstrip("\n") + " " * (len(lines[0]) - len(leaked)) + "\n" if len(lines[0]) >= len(leaked) else leaked
    )
    report = tmp_path / "data" / "report.json"
    train.write_text("".join([padded, *lines[1:]]), "utf-8")
    found = json.loads(report.read_text())
    found["files"]["data/train.jsonl"] = train.stat().st_size
    report.write_text(json.dumps(found))
    with pytest.raises(UserError, match="stands in the test data too"):
        assessment.study(recipe, tmp_path, ways="base,bm25")


def test_the_command_ends_in_the_verdict_and_refuses_a_misspelt_way(
    small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml
    from typer.testing import CliRunner

    from residency.cli import app

    monkeypatch.setattr(models, "computes_bf16", lambda: False)
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(small_recipe), "utf-8")
    out = tmp_path / "study"
    done = CliRunner().invoke(app, ["study", str(file), "--out", str(out), "--ways", "bm25", "--questions", "2"])
    assert done.exit_code == 0, done.output
    assert str(out / "study.html") in done.stdout
    assert json.loads((out / "study.json").read_text())["questions"] == 2
    again = CliRunner().invoke(app, ["study", str(file), "--out", str(out), "--ways", "bm52"])
    assert again.exit_code == 2
    as_json = CliRunner().invoke(
        app, ["study", str(file), "--out", str(out), "--ways", "bm25", "--questions", "2", "--json"]
    )
    assert json.loads(as_json.stdout)["study"]["ways"]["bm25"]["label"] == "Retrieval by BM25"
