"""Every recipe that ships runs as it stands; what can't be reached (a hub) is put in its place as a local folder."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from conftest import dialogues
from residency import pipeline
from residency.recipe import Recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid(path: Path) -> None:
    assert Recipe.load(path).name == path.stem


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
