"""Every recipe that ships runs as it stands; what can't be reached (a hub) is put in its place as a local folder."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from conftest import dialogues
from residency import pipeline
from residency.recipe import BUILT_IN_RECIPES, Recipe
from residency.workspace import Run

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
ASSISTANTS = ("support", "legal", "code")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid(path: Path) -> None:
    assert Recipe.load(path).name == path.stem


def test_the_built_in_recipes_are_the_files_that_ship() -> None:
    folder = ROOT / "src" / "residency" / "assets" / "recipes"
    assert sorted(BUILT_IN_RECIPES) == sorted(path.stem for path in folder.glob("*.yaml"))
    for name in BUILT_IN_RECIPES:
        assert Recipe.load(name).name == name
    assert Recipe.load() == Recipe.load("doctor")


@pytest.mark.parametrize("name", ASSISTANTS)
def test_a_built_in_assistant_prepares_rows_of_the_form_that_its_page_shows(
    name: str, llama_folder: Path, tmp_path: Path
) -> None:
    rows = ROOT / "docs" / "rows" / f"{name}.jsonl"
    settings = [f"data.source={rows}", f"model.base={llama_folder}", "data.test=0.2", "data.validation=0.2"]
    report = pipeline.prepare(Recipe.load(name, settings), tmp_path / name)
    assert report["kept"] == report["rows_in"] >= len(rows.read_text("utf-8").splitlines())
    assert report["dropped"] == {}
    assert min(report["split"].values()) >= 1


def test_the_code_assistant_learns_code_with_its_indentation(llama_folder: Path, tmp_path: Path) -> None:
    rows = ROOT / "docs" / "rows" / "code.jsonl"
    settings = [f"data.source={rows}", f"model.base={llama_folder}", "data.test=0.2", "data.validation=0.2"]
    pipeline.prepare(Recipe.load("code", settings), tmp_path)
    prepared = {
        one.question: one.answer for name in ("train", "validation", "test") for one in Run(tmp_path).dialogues(name)
    }
    assert all(prepared[one["instruction"]] == one["output"] for one in map(json.loads, rows.open(encoding="utf-8")))


def hub_data_set(folder: Path) -> Path:
    """A data set in the hub's own layout: the reference's columns as Parquet shards, and the card that names them."""
    (folder / "data").mkdir(parents=True)
    rows = pl.DataFrame(dialogues(60))
    rows.head(30).write_parquet(folder / "data" / "train-00000-of-00002.parquet")
    rows.tail(30).write_parquet(folder / "data" / "train-00001-of-00002.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
    )
    return folder


def test_the_tutorials_notebook_runs_setting_for_setting(neox_folder: Path, tmp_path: Path) -> None:
    source = hub_data_set(tmp_path / "ai-medical-chatbot")
    recipe = Recipe.load(
        RECIPES[[path.stem for path in RECIPES].index("pythia-doctor")],
        [
            f"data.source={source}",
            f"model.base={neox_folder}",
            "model.max_length=128",
            "evaluate.questions=3",
            "evaluate.max_new_tokens=16",
        ],
    )
    folder = tmp_path / "run"
    pipeline.run(recipe, folder)
    report = json.loads((folder / "report.json").read_text())
    assert report["data"]["rows_in"] == 60
    assert report["data"]["sample"].startswith("### Question:\nWhat should")
    assert not report["data"]["sample"].endswith("<|endoftext|>")
    assert report["train"]["precision"] == "fp32"
    assert report["train"]["method"] == "full"
    rates = [
        row["learning_rate"] for row in map(json.loads, (folder / "metrics.jsonl").open()) if "learning_rate" in row
    ]
    total = report["train"]["steps"]
    # One warm-up step from zero, then linearly down to zero: transformers' `linear` with warmup_steps=1.
    expected = [0.0] + [1e-5 * (total - step) / (total - 1) for step in range(1, total)]
    assert rates == pytest.approx(expected, rel=1e-3)
    assert report["evaluate"]["decoding"]["name"] == "greedy"
