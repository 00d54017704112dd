from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from residency.errors import UserError
from residency.ranking import answered
from residency.recipe import Recipe
from residency.workspace import Run


def row(question: str, base: str = "base says", tuned: str = "tuned says", **more: Any) -> dict[str, Any]:
    """A line of answers.jsonl, as far as ranking reads it."""
    answers = {"base": base, "tuned": tuned, "base_greedy": base, "tuned_greedy": tuned}
    told = {name: {"text": text, "tokens": 3, "stopped": True} for name, text in answers.items()}
    before = {"system": "", "history": []}
    return {"row": 1, "question": question, "reference": "A person says", "before": before, **told, **more}


def run(folder: Path, rows: list[Any]) -> Run:
    made = Run.create(folder, Recipe.load(None))
    made.write_jsonl("evaluation/answers.jsonl", rows)
    return made


def test_one_runs_systems_are_its_columns_of_answers(tmp_path: Path) -> None:
    rows = [row("q1", few_shot={"text": "shots say"}), row("q2", few_shot={"text": "shots say"})]
    found = answered([run(tmp_path / "one", rows)])
    assert found.systems == ["base", "tuned", "few_shot"]  # greedy answers are of the same systems
    assert found.asked[1].question == "q2"
    assert found.asked[0].answers == {"base": "base says", "tuned": "tuned says", "few_shot": "shots say"}
    assert found.names["one/tuned"] == "tuned"


def test_of_several_runs_the_shared_questions_count_and_the_base_is_one(tmp_path: Path) -> None:
    one = run(tmp_path / "one", [row("q1", tuned="x"), row("q2"), row("only here")])
    two = run(tmp_path / "two", [row("q2", tuned="z"), row("q1", tuned="y")])
    found = answered([one, two])
    assert found.systems == ["base", "one/tuned", "two/tuned"]
    assert found.asked[0].answers == {"base": "base says", "one/tuned": "x", "two/tuned": "y"}
    assert found.left_out == {"one": 1, "two": 0}
    assert found.own == [{"base": "base", "tuned": "one/tuned"}, {"base": "base", "tuned": "two/tuned"}]
    assert found.names["two/base"] == "base"


def test_bases_that_answered_differently_are_two_systems(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, [row("q1", base=f"base of {name}", tuned=name)]) for name in ("one", "two")]
    assert answered(runs).systems == ["one/base", "one/tuned", "two/base", "two/tuned"]


def test_a_question_that_comes_twice_or_in_another_conversation_is_another_one(tmp_path: Path) -> None:
    talk = {"system": "Be kind.", "history": [["Hello?", "Hello."]]}
    rows = [row("And?", tuned="1"), row("And?", tuned="2"), row("And?", tuned="3", before=talk)]
    found = answered([run(tmp_path / name, rows) for name in ("one", "two")])
    assert [asked.answers["tuned"] for asked in found.asked] == ["1", "2", "3"]
    assert (found.asked[2].system, found.asked[2].history) == ("Be kind.", (("Hello?", "Hello."),))


def test_what_can_not_be_ranked_together_is_said(tmp_path: Path) -> None:
    one = run(tmp_path / "one", [row("q1")])
    two = run(tmp_path / "two", [row("q2")])
    with pytest.raises(UserError, match="one and two: share no question"):
        answered([one, two])
    with pytest.raises(UserError, match='two run folders are called "one"'):
        answered([one, one])
    with pytest.raises(UserError, match="holds no system's answers"):
        answered([run(tmp_path / "three", [{"question": "q"}])])
    with pytest.raises(UserError, match="damaged"):
        answered([run(tmp_path / "four", [[]])])
