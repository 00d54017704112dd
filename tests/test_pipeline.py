from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from residency import pipeline
from residency.errors import Interrupted, UserError
from residency.progress import Silent
from residency.recipe import Recipe
from residency.workspace import Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_file: Path) -> Path:
    """A whole run of the small chat model."""
    recipe = Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(data_file), "question": "Description", "answer": "Doctor", "validation": 0.1},
            "model": {"base": str(llama_folder), "max_length": 256},
            "train": {"epochs": 2, "examples_per_step": 8, "learning_rate": 0.01},
            "evaluate": {"questions": 4, "max_new_tokens": 12, "resamples": 100},
        }
    )
    folder = tmp_path_factory.mktemp("runs") / "small"
    pipeline.run(recipe, folder)
    return folder


def test_a_run_leaves_every_file_that_the_design_names(finished: Path) -> None:
    names = [
        "recipe.yaml", "data/report.json", "data/dropped.parquet", "metrics.jsonl", "train.json", "model/config.json",
        "adapter/adapter_config.json", "evaluation/answers.jsonl", "evaluation/scores.json", "evaluation/errors.json",
        "report.html", "report.json", "manifest.json",
        *(f"data/{split}.{form}" for split in ("train", "validation", "test") for form in ("parquet", "jsonl")),
    ]  # fmt: skip
    assert [name for name in names if not (finished / name).is_file()] == []


def test_the_report_for_programs_holds_what_the_design_promises(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    data, train, evaluate = report["data"], report["train"], report["evaluate"]
    assert data["rows_in"] == data["kept"] + sum(data["dropped"].values())
    assert {"near_duplicates", "leaked", "redacted", "boilerplate", "split", "tokens"} <= set(data)
    assert {
        "method", "steps", "examples", "answer_tokens", "total_tokens", "seconds", "tokens_per_second", "mfu",
        "peak_memory_bytes", "best_step", "best_validation_loss", "diagnosis", "stopped_by", "stopped_at",
        "restored_step",
    } <= set(train)  # fmt: skip
    metrics = {
        "answer_nll", "rouge_l", "bleu", "chrf", "stopped", "repetition", "boilerplate", "empty", "off_topic_kept",
        "tokens_per_second",
    }  # fmt: skip
    assert set(evaluate["systems"]) == {"base", "tuned"}
    assert all(metrics <= set(system) for system in evaluate["systems"].values())
    assert {"mean", "low", "high"} == set(evaluate["differences"]["answer_nll"])
    assert set(evaluate["faults"]) == {"base", "tuned"}


def test_a_finished_run_verifies_and_a_changed_byte_shows(finished: Path) -> None:
    assert pipeline.verify(finished) == []
    scores = finished / "evaluation" / "errors.json"
    before = scores.read_bytes()
    scores.write_bytes(before[:-1] + b" ")
    try:
        assert pipeline.verify(finished) == ["evaluation/errors.json: sha256 differs from the manifest"]
    finally:
        scores.write_bytes(before)


def test_stages_can_be_run_again_alone(finished: Path) -> None:
    before = json.loads((finished / "evaluation" / "scores.json").read_text())
    pipeline.evaluate(finished)
    after = json.loads((finished / "evaluation" / "scores.json").read_text())
    assert before["differences"] == after["differences"]
    assert pipeline.report(finished) == finished / "report.html"


def test_a_folder_with_a_run_of_another_recipe_is_refused(finished: Path) -> None:
    other = Run.open(finished).recipe.model_copy(update={"name": "other"})
    with pytest.raises(UserError, match=r"another recipe.*--overwrite"):
        pipeline.run(other, finished)


def test_training_on_data_that_was_prepared_otherwise_is_refused(finished: Path) -> None:
    recipe = Run.open(finished).recipe
    other = recipe.model_copy(update={"data": recipe.data.model_copy(update={"seed": 7})})
    with pytest.raises(UserError, match="prepared with other settings under data"):
        pipeline.train(other, finished)


def test_evaluating_before_training_names_the_stage_to_run(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.parse(small_recipe)
    pipeline.prepare(recipe, tmp_path / "run")
    with pytest.raises(UserError, match="residency train"):
        pipeline.evaluate(tmp_path / "run")


def test_a_report_can_be_made_of_prepared_data_alone(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    pipeline.prepare(Recipe.parse(small_recipe), tmp_path / "run")
    page = pipeline.report(tmp_path / "run").read_text()
    assert "rows read" in page
    assert "tokens a second" not in page


def test_preparing_again_forgets_results_that_belong_to_the_old_data(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe, folder = Recipe.parse(small_recipe), tmp_path / "run"
    pipeline.prepare(recipe, folder)
    (folder / "train.json").write_text("{}")
    pipeline.prepare(recipe, folder)
    assert (folder / "train.json").exists()  # nothing has changed
    small_recipe["data"]["seed"] = 7
    pipeline.prepare(Recipe.parse(small_recipe), folder)
    assert not (folder / "train.json").exists()


@pytest.mark.parametrize("change", ["input", "settings", "tokenizer", "damage", "nothing"])
def test_data_is_used_again_only_where_nothing_has_changed(
    change: str, small_recipe: dict[str, Any], data_file: Path, llama_folder: Path, tmp_path: Path
) -> None:
    source, model = tmp_path / "rows.jsonl", tmp_path / "model"
    source.write_bytes(data_file.read_bytes())
    shutil.copytree(llama_folder, model)
    small_recipe["data"]["source"], small_recipe["model"]["base"] = str(source), str(model)
    folder = tmp_path / "run"
    pipeline.prepare(Recipe.parse(small_recipe), folder)
    before = (folder / "data" / "report.json").stat().st_mtime_ns
    if change == "input":
        source.write_bytes(source.read_bytes() + data_file.read_bytes().splitlines()[0].replace(b"day 0", b"day 99"))
    elif change == "settings":
        small_recipe["data"]["test"] = 0.2
    elif change == "tokenizer":
        config = model / "tokenizer_config.json"
        config.write_text(config.read_text() + " ")
    elif change == "damage":
        (folder / "data" / "train.parquet").write_bytes(b"")
    pipeline.prepare(Recipe.parse(small_recipe), folder)
    assert ((folder / "data" / "report.json").stat().st_mtime_ns == before) is (change == "nothing")


class StopsAt(Silent):
    """The user presses Ctrl-C at a step of training."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        if task == "Training" and done == self.at:
            raise KeyboardInterrupt


def test_a_stopped_run_says_how_to_go_on_and_does(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    small_recipe["train"] |= {"epochs": 2, "evaluate_every": 2}
    recipe, folder = Recipe.parse(small_recipe), tmp_path / "run"
    with pytest.raises(Interrupted, match=r"step 5 of .*--resume --out"):
        pipeline.run(recipe, folder, StopsAt(5))
    pipeline.run(recipe, folder, resume=True)
    steps = [row["step"] for row in Run.open(folder).read_jsonl("metrics.jsonl", "train") if "loss" in row]
    assert steps == list(range(1, max(steps) + 1))
    assert pipeline.verify(folder) == []


def test_the_runs_own_model_is_asked_for_pairs_once_where_no_endpoint_is(
    small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes.md"
    parts = ("gland", "bone", "nerve", "vein", "joint", "skin", "lung", "heart")
    notes.write_text("".join(f"# What is a {p}?\n\nA {p} is a part of the body that works.\n\n" for p in parts))
    made = {"by": ["rules", "model"], "pairs": 1, "near_duplicate": 1.0}
    small_recipe["data"] = {
        "source": str(notes),
        "synthesise": made,
        "near_duplicate": 1.0,
        "test": 0.2,
        "validation": 0,
    }
    monkeypatch.setattr(pipeline, "PAIR_TOKENS", 5)
    report = pipeline.prepare(Recipe.parse(small_recipe), tmp_path / "run")
    kept = (tmp_path / "run" / "data" / "replies.jsonl").read_text()
    assert len([line for line in kept.splitlines() if line]) == len(parts) == report["synthesised"]["passages"]
    assert report["synthesised"]["dropped"] == {"reply without JSON": len(parts)}  # a model of random weights
    assert pipeline.verify(tmp_path / "run") == []

    def never(*_: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr("residency.evaluate.ask._load", never)
    made["grounded"] = 0.6
    assert pipeline.prepare(Recipe.parse(small_recipe), tmp_path / "run")["kept"] == report["kept"]
