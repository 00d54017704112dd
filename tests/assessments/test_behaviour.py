from __future__ import annotations

import html
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from residency import pipeline
from residency.assessments.behaviour import behaviour
from residency.cli import app
from residency.errors import Interrupted, UserError
from residency.evaluate.behaviour.probes import SETS
from residency.progress import Silent
from residency.recipe import Recipe
from residency.workspace import Run

COMMAND = CliRunner()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_file: Path) -> Path:
    """A run of the small chat model that was trained and not evaluated."""
    recipe = Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(data_file), "question": "Description", "answer": "Doctor"},
            "model": {"base": str(llama_folder), "max_length": 256},
            "train": {"max_steps": 2, "examples_per_step": 8, "learning_rate": 0.01},
            "evaluate": {"max_new_tokens": 8, "resamples": 100},
        }
    )
    folder = tmp_path_factory.mktemp("runs") / "small"
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder)
    return folder


@pytest.fixture(scope="module")
def asked(trained: Path) -> dict[str, Any]:
    """What two probes of each set leave in the run."""
    found = behaviour(trained, limit=2)
    report: dict[str, Any] = Run.open(trained).read_json("evaluation/behaviour.json", "behaviour")
    assert report == json.loads(json.dumps(asdict(found)))
    return report


def test_each_set_has_a_share_for_both_systems_and_their_paired_difference(asked: dict[str, Any]) -> None:
    assert list(asked["sets"]) == list(SETS)
    assert asked["probes"] == 12
    for own in asked["sets"].values():
        assert own["probes"] == 2
        for system in ("base", "tuned"):
            share = own[system]
            assert 0 <= share["low"] <= share["mean"] <= share["high"] <= 1
            assert sum(own["rules"][system].values()) == 2
        assert own["difference"]["mean"] == pytest.approx(own["tuned"]["mean"] - own["base"]["mean"])


def test_every_verdict_stands_beside_its_answer_and_the_shares_follow_from_them(
    trained: Path, asked: dict[str, Any]
) -> None:
    rows = Run.open(trained).read_jsonl("evaluation/behaviour.jsonl", "behaviour")
    assert len(rows) == 12
    for name, own in asked["sets"].items():
        for system in ("base", "tuned"):
            kept = [row[system]["kept"] for row in rows if row["set"] == name]
            assert own[system]["mean"] == pytest.approx(sum(kept) / 2)
    assert all(row[system]["rule"] and row[system]["tokens"] <= 8 for row in rows for system in ("base", "tuned"))


def test_the_page_shows_the_shares_and_answers_and_the_run_still_verifies(trained: Path, asked: dict[str, Any]) -> None:
    page = html.unescape((trained / "report.html").read_text("utf-8"))
    assert 'id="behaviour"' in page
    assert "12 probes (built in)" in page
    assert "What do you think of Mars?" in page
    assert "Prompt injection" in page
    assert pipeline.verify(trained) == []


def test_the_models_own_decoding_is_used_and_named(trained: Path) -> None:
    config = trained / "model" / "generation_config.json"
    before = config.read_text("utf-8")
    config.write_text(json.dumps({**json.loads(before), "repetition_penalty": 1.2}), "utf-8")
    try:
        assert behaviour(trained, sets=["identity"], limit=1).decoding == {"repetition_penalty": 1.2}
    finally:
        config.write_text(before, "utf-8")


def test_the_command_takes_sets_a_limit_and_probes_of_ones_own(trained: Path, tmp_path: Path) -> None:
    probes = tmp_path / "own.jsonl"
    probes.write_text('{"set": "refunds", "question": "Refund?", "must": ["30 days"]}\n', "utf-8")
    done = COMMAND.invoke(app, ["behaviour", str(trained), "--probes", str(probes), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["behaviour"]
    assert found["source"] == str(probes)
    assert found["sets"]["refunds"]["rules"]["tuned"] in ({"did not say": 1}, {"empty": 1})
    done = COMMAND.invoke(app, ["behaviour", str(trained), "--sets", "injection, identity", "--limit", "1", "--json"])
    assert list(json.loads(done.stdout)["behaviour"]["sets"]) == ["injection", "identity"]


def test_a_run_that_was_not_trained_and_a_set_that_is_none_are_refused(
    small_recipe: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    pipeline.prepare(Recipe.parse(small_recipe), tmp_path / "run")
    with pytest.raises(UserError, match="residency train"):
        behaviour(tmp_path / "run")
    assert not (tmp_path / "run" / "evaluation").exists()
    done = COMMAND.invoke(app, ["behaviour", str(trained), "--sets", "idendity"])
    assert done.exit_code == 2
    assert 'did you mean "identity"?' in done.stderr


def test_a_stopped_call_names_the_command_that_asks_again(trained: Path) -> None:
    class Stops(Silent):
        def step(self, task: str, done: int, total: int, detail: str = "") -> None:
            raise KeyboardInterrupt

    before = (trained / "evaluation" / "behaviour.json").read_bytes()
    with pytest.raises(Interrupted, match=r"`residency behaviour .* --sets identity --limit 1`"):
        behaviour(trained, Stops(), sets=["identity"], limit=1)
    assert (trained / "evaluation" / "behaviour.json").read_bytes() == before
