from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from residency import environment, pipeline, tables
from residency.errors import UserError
from residency.progress import Silent
from residency.recipe import Recipe
from residency.train import Examples, assumed, fitting, plan
from residency.train.plan import Plan
from residency.workspace import Run


@pytest.fixture(scope="module")
def measured(llama_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan of the small model with measured steps, and of two other machines."""
    recipe = Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(data_file), "question": "Description", "answer": "Doctor", "validation": 0.1},
            "model": {"base": str(llama_folder), "max_length": 256},
            "train": {"epochs": 1, "examples_per_step": 8, "tokens_per_batch": 256},
        }
    )
    return pipeline.plan(
        recipe, tmp_path_factory.mktemp("plan") / "none", machines=["p3.8xlarge", "apple-m1-16", "server-xeon-8480"]
    )


def shown(found: Plan) -> str:
    out = StringIO()
    tables.show(found.as_dict(), found.forecast.rows(), Console(file=out, width=80))
    return out.getvalue()


def test_a_plan_is_measured_on_real_steps(measured: Plan) -> None:
    assert measured.forecast.measured
    assert measured.forecast.times.total > 0
    assert measured.forecast.memory.peak > 2**27  # Python and its libraries are in it
    assert measured.fits
    assert measured.nearest == ""


def test_a_plan_is_plain_json(measured: Plan) -> None:
    plain = json.loads(json.dumps(measured.as_dict()))
    assert plain["memory"]["peak"] >= plain["memory"]["training_peak"] > plain["memory"]["weights"] > 0
    assert [machine["name"] for machine in plain["machines"]] == ["p3.8xlarge", "apple-m1-16", "server-xeon-8480"]
    assert plain["machines"][0]["precision"] == "fp32"  # a V100 has no bf16
    assert plain["machines"][0]["largest"]["full"]["model"]
    assert plain["machines"][0]["cost_usd"] > 0


def test_tables_are_readable_at_eighty_columns(measured: Plan) -> None:
    text = shown(measured)
    assert all(len(line) <= 80 for line in text.splitlines())
    for word in ("training step", "merge and save", "GiB", "It fits", "4 x 16 GiB", "p3.8xlarge", "kWh", "2025-07-01"):
        assert word in text
    assert "…" not in text


def test_what_will_not_fit_names_the_nearest_setting(
    small_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_recipe["train"] |= {"tokens_per_batch": 4096, "examples_per_step": 24}
    recipe = Recipe.parse(small_recipe)
    monkeypatch.setattr(environment, "resident", lambda: 2**29)
    roomy = pipeline.plan(recipe, tmp_path / "none", measure=False)
    monkeypatch.setattr(fitting, "free_memory", lambda device: roomy.forecast.memory.needed - 2**19)
    tight = pipeline.plan(recipe, tmp_path / "none")
    assert not tight.fits
    assert tight.notes == ["Not measured, since it will not fit."]
    assert "train.tokens_per_batch" in tight.nearest
    assert "It will not fit" in shown(tight)
    fitted = pipeline.plan(recipe, tmp_path / "none", measure=False, fit=True)
    assert fitted.recipe == tight.fitting != recipe
    assert any(note.startswith("Taken, since") for note in fitted.notes)


def test_a_model_without_weights_or_tokenizer_is_planned_from_its_config(
    small_recipe: dict[str, Any], llama_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((llama_folder / "config.json").read_text("utf-8"), "utf-8")
    small_recipe["model"]["base"] = str(tmp_path)
    found = pipeline.plan(Recipe.parse(small_recipe), tmp_path / "none")
    assert not found.forecast.measured
    assert "No tokenizer" in found.notes[0]
    assert "weights are not here" in found.notes[1]


def test_assumed_examples_are_as_many_as_the_recipe_takes(small_recipe: dict[str, Any]) -> None:
    small_recipe["data"]["rows"] = 200
    found = assumed(Recipe.parse(small_recipe))
    assert len(found.training) + len(found.validation) + 20 == 200
    assert {len(example) for example in found.training} == {256}


def test_an_unknown_machine_is_refused(small_recipe: dict[str, Any]) -> None:
    recipe = Recipe.parse(small_recipe)
    given: Examples = assumed(recipe)
    with pytest.raises(UserError, match="machine cray"):
        plan(recipe, given, Silent(), measure=False, names=["cray"])


def test_fit_trains_with_the_nearest_setting_and_the_run_is_a_check_of_the_forecast(
    small_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_recipe["train"] |= {"tokens_per_batch": 4096, "examples_per_step": 24, "max_steps": 2}
    recipe = Recipe.parse(small_recipe)
    pipeline.prepare(recipe, tmp_path)
    monkeypatch.setattr(environment, "resident", lambda: 2**29)
    needed = pipeline.plan(recipe, tmp_path, measure=False).forecast.memory.needed
    monkeypatch.setattr(fitting, "free_memory", lambda device: needed - 2**20)
    with pytest.raises(UserError, match="which --fit does for you"):
        pipeline.train(recipe, tmp_path)
    report = pipeline.train(recipe, tmp_path, fit=True)
    taken = Run.open(tmp_path).recipe.train.tokens_per_batch
    assert taken != "auto"
    assert taken < 4096
    assert report.summary["tokens_per_batch"] == taken
    memory = report.forecast["memory_bytes"]
    assert memory["used"] == report.peak_memory_bytes
    assert memory["foreseen"] == report.summary["memory"]["training_peak"]
    assert report.forecast["seconds"]["used"] == report.seconds
