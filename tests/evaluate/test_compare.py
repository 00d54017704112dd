from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from residency import pipeline
from residency.evaluate import score
from residency.evaluate.compare import mildest
from residency.evaluate.generate import CANDIDATES
from residency.recipe import Recipe
from residency.workspace import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path, data_file: Path) -> Run:
    """A small chat model that has learnt its few dialogues well enough to beat its base."""
    recipe = Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(data_file), "question": "Description", "answer": "Doctor", "validation": 0.1},
            "model": {"base": str(llama_folder), "max_length": 256},
            "train": {"method": "full", "epochs": 12, "examples_per_step": 8, "learning_rate": 0.01},
            "evaluate": {"questions": 5, "max_new_tokens": 40, "resamples": 200},
        }
    )
    folder = tmp_path_factory.mktemp("runs") / "small"
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder)
    pipeline.evaluate(folder)
    return Run.open(folder)


def scores(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = run.read_json("evaluation/scores.json", "evaluate")
    return found


def test_what_was_learnt_shows_with_its_interval(run: Run) -> None:
    difference = scores(run)["differences"]["answer_nll"]
    assert difference["low"] <= difference["mean"] <= difference["high"] < -1


def test_the_mean_nll_is_over_all_answer_tokens_and_agrees_with_the_answers(run: Run) -> None:
    answers = run.read_jsonl("evaluation/answers.jsonl", "evaluate")
    assert len(answers) == 5
    for system in ("base", "tuned"):
        each = [row[system]["answer_nll"] for row in answers]
        assert min(each) <= scores(run)["systems"][system]["answer_nll"] <= max(each)


def test_questions_come_from_the_test_split(run: Run) -> None:
    asked = [row["row"] for row in run.read_jsonl("evaluation/answers.jsonl", "evaluate")]
    assert asked == [dialogue.row for dialogue in run.dialogues("test")][:5]


def test_both_systems_are_shown_under_plain_greedy_too(run: Run) -> None:
    assert set(scores(run)["greedy"]) == {"base", "tuned"}
    assert all({"tuned_greedy", "base_greedy"} <= set(row) for row in run.read_jsonl("evaluation/answers.jsonl", ""))


def test_the_mildest_candidate_that_suffices_is_chosen_and_saved_with_the_model(run: Run) -> None:
    candidates = scores(run)["candidates"]
    assert [candidate["name"] for candidate in candidates] == [decoding.name for decoding in CANDIDATES]
    chosen = [candidate["chosen"] for candidate in candidates].index(True)
    references = [score.repeated(dialogue.answer) for dialogue in run.dialogues("validation")]
    limit = sum(references) / len(references) + 0.05
    assert chosen == mildest(candidates, 1 / len(references), limit)
    config = json.loads((run.folder / "model" / "generation_config.json").read_text())
    assert config.get("repetition_penalty", 1.0) == CANDIDATES[chosen].repetition_penalty
    assert config["do_sample"] is False


def test_ten_off_topic_questions_are_asked_with_mars_among_them(run: Run) -> None:
    probes = scores(run)["off_topic"]
    assert len(probes) == 10
    assert probes[0]["question"] == "What do you think of Mars?"
    assert all({"question", "base", "tuned"} == set(probe) for probe in probes)


def test_faults_are_counted_for_each_system(run: Run) -> None:
    faults = run.read_json("evaluation/errors.json", "evaluate")
    limit = sum(not row["tuned"]["stopped"] for row in run.read_jsonl("evaluation/answers.jsonl", ""))
    assert faults["tuned"]["ran to the limit"] == limit
    assert set(faults["base"]) == {"loop", "ran to the limit", "empty", "boilerplate"}


def test_without_probes_and_choice_the_report_says_so(run: Run) -> None:
    pipeline.evaluate(run.folder, overrides=("evaluate.off_topic=false", "evaluate.decoding=greedy"))
    found = scores(run)
    assert found["off_topic"] == []
    assert found["candidates"] == []
    assert found["decoding"] == {"name": "greedy"}
    assert "off_topic_kept" not in found["systems"]["tuned"]
    assert "How the decoding was chosen" in pipeline.report(run.folder).read_text()


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ([(1.0, 0.0, 0.0), (1.0, 0.0, 0.0)], 0),
        ([(0.9, 0.0, 0.0), (1.0, 0.0, 0.0)], 0),  # one question of ten is no difference
        ([(0.8, 0.0, 0.0), (1.0, 0.0, 0.0)], 1),
        ([(1.0, 0.3, 0.0), (1.0, 0.0, 0.0)], 1),
        ([(1.0, 0.0, 0.2), (1.0, 0.0, 0.01)], 1),  # not yet a loop, but on its way
        ([(1.0, 0.0, 0.2), (0.5, 0.0, 0.0)], 0),  # repeating little is no use where answers don't stop
        ([(1.0, 0.0, 0.4), (1.0, 0.0, 0.2), (1.0, 0.0, 0.3)], 1),
    ],
)
def test_the_first_decoding_that_is_as_good_as_any_is_taken(rows: list[tuple[float, float, float]], place: int) -> None:
    named = [dict(zip(("stopped", "repetition", "repeated"), row, strict=True)) for row in rows]
    assert mildest(named, tolerance=0.1, most_repeated=0.05) == place
