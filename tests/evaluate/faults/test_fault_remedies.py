from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from residency.evaluate.faults.cases import Known
from residency.evaluate.faults.causes import Evidence, causes, gather
from residency.evaluate.faults.fixed import renamed, written
from residency.evaluate.faults.nearest import Nearest
from residency.evaluate.faults.remedies import remedies, together
from residency.evaluate.faults.rules import CATEGORIES
from residency.recipe import DataSection, Recipe
from residency.workspace import Dialogue

DATA: dict[str, Any] = {
    "truncated": 0,
    "findings": [],
    "tokens": {"answer": {"median": 80, "p95": 180}},
    "split": {"train": 90, "validation": 5, "test": 5},
    "template": "chat",
}
CLOSING = "Hope this answers your question."
OWN = "The team wishes you (and yours) well."


def evidence(changes: dict[str, Any] | None = None, **data: Any) -> Evidence:
    """What was counted of a run whose recipe and data differ in this from one in order."""
    values: dict[str, Any] = {"name": "gout", "data": {"source": "gout.csv"}}
    for key, value in (changes or {}).items():
        section, name = key.split(".")
        values.setdefault(section, {})[name] = value
    recipe = Recipe.parse(values)
    return Evidence(recipe, DATA | data, {"diagnosis": []}, {}, 90, {}, 60.0, 55.0)


def told(category: str, of: Evidence) -> dict[str, Any]:
    """The proposed changes, new values by key."""
    return {change.key: change.new for change in remedies(category, of)[0]}


def test_a_loop_is_laid_to_the_end_token_and_the_decoding_where_these_are_off() -> None:
    tutorial = evidence({"prompt.end_token": False, "evaluate.decoding": "greedy"})
    assert told("loop", tutorial) == {"prompt.end_token": True, "evaluate.decoding": "auto"}
    assert "prompt.end_token is false" in causes("loop", tutorial)[0]
    assert "evaluate.decoding is greedy" in causes("loop", tutorial)[1]
    assert told("loop", evidence()) == {}
    assert causes("loop", evidence()) == []


def test_decoding_is_not_to_be_chosen_where_there_is_nothing_to_choose_it_on() -> None:
    tutorial = evidence({"evaluate.decoding": "greedy"}, split={"train": 9, "validation": 0, "test": 1})
    assert told("loop", tutorial) == {}


def test_rows_that_are_cut_and_answers_over_the_limit_are_counted() -> None:
    cut = evidence({"data.overlong": "truncate"}, truncated=12, tokens={"answer": {"median": 300, "p95": 460}})
    assert told("ran to the limit", cut) == {"data.overlong": "drop", "evaluate.max_new_tokens": 500}
    assert causes("ran to the limit", cut) == [
        "12 rows are cut at model.max_length and learnt without an end.",
        "Answers of the data are long: half of them have more than evaluate.max_new_tokens 200.",
    ]


def test_rows_that_the_audit_names_are_dropped_and_what_was_dropped_stays_so() -> None:
    found = [{"kind": kind, "count": 4, "share": 0.04} for kind in ("truncated-answers", "other-languages")]
    before = evidence({"data.drop": ["copied-questions"]}, findings=found)
    assert told("loop", before) == {"data.drop": ["copied-questions", "truncated-answers"]}
    both, recipe = together(["loop", "wrong language"], before)
    assert [change.key for change in both if change.key == "data.drop"] == ["data.drop"]
    assert recipe.data.drop == ("copied-questions", "truncated-answers", "other-languages")
    assert both[0].old == ["copied-questions"]


def test_a_finding_about_hardly_a_row_changes_nothing_since_it_would_change_the_split() -> None:
    one = evidence(findings=[{"kind": "truncated-answers", "count": 1, "share": 0.005}])
    assert told("loop", one) == {}
    assert causes("loop", one) == []


def test_stock_sentences_are_cleaned_away_where_they_end_answers() -> None:
    ends = {"share": 0.3, "ends": 1.0}
    known = replace(evidence(), sentences=({"text": CLOSING, **ends},))
    assert told("boilerplate", known) == {"data.clean": [*evidence().recipe.data.clean, "stock-closings"]}
    assert causes("boilerplate", known) == [f"“{CLOSING}” stands in 30% of the training answers."]
    middle = replace(evidence(), sentences=({"text": CLOSING, "share": 0.3, "ends": 0.1},))
    assert told("boilerplate", middle) == {}
    caution = replace(evidence(), sentences=({"text": "See a doctor if it is worse.", **ends},))
    assert told("boilerplate", caution) == {}
    own = told("boilerplate", replace(evidence(), sentences=({"text": OWN, **ends},)))
    assert own["data.closings"][-1] == r"The team wishes you \(and yours\) well\."


def test_the_pattern_that_is_added_takes_the_sentence_away() -> None:
    import polars as pl

    from residency.data.clean import clean

    of = replace(evidence(), sentences=({"text": OWN, "share": 0.3, "ends": 1.0},))
    recipe = remedies("boilerplate", of)[1]
    rows = pl.DataFrame({"row": [1], "question": ["Gout?"], "answer": [f"It passes. {OWN}"]})
    assert clean(rows, recipe.data)[0]["answer"].to_list() == ["It passes."]


def test_training_is_made_longer_or_shorter_in_the_unit_that_the_recipe_has() -> None:
    assert told("off topic", evidence({"train.max_steps": 20})) == {"train.max_steps": 40}
    assert told("off topic", evidence({"train.epochs": 2})) == {"train.epochs": 4}
    assert told("copied", evidence({"train.epochs": 4})) == {"train.epochs": 2}
    assert told("copied", evidence({"train.epochs": 1})) == {}
    over = replace(evidence(), train={"diagnosis": [{"kind": "over-fitting"}]})
    assert told("off topic", over) == {}


def test_answers_that_steer_back_are_proposed_where_the_role_was_lost_and_recipes_know_them() -> None:
    lost = {"differences": {"off_topic_kept": {"mean": -0.4, "low": -0.7, "high": -0.1}}}
    changes = told("off topic", replace(evidence(), scores=lost))
    assert ("data.redirects" in changes) is ("redirects" in DataSection.model_fields)
    assert "data.redirects" not in told("off topic", evidence())


def test_two_faults_that_want_one_key_the_other_way_get_what_the_graver_wants() -> None:
    changes, recipe = together(["copied", "off topic"], evidence({"train.epochs": 2}))
    assert recipe.train.epochs == 1
    assert [change.key for change in changes] == ["train.epochs"]


def test_a_system_message_is_proposed_only_where_the_template_has_a_place_for_it() -> None:
    assert set(told("unsafe", evidence())) == {"prompt.system"}
    assert told("unsafe", evidence(template="### {question} {answer}")) == {}
    assert told("unsafe", evidence({"prompt.system": "Be careful."})) == {}


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_change_makes_a_recipe_that_is_right(category: str) -> None:
    kinds = ("truncated-answers", "short-answers", "contradicting-answers", "other-languages", "copied-questions")
    of = evidence(
        {"prompt.end_token": False, "evaluate.decoding": "greedy", "data.overlong": "truncate"},
        findings=[{"kind": kind, "count": 3, "share": 0.03} for kind in kinds],
        truncated=3,
    )
    changes, recipe = remedies(category, of)
    assert Recipe.parse(recipe.model_dump(mode="json")) == recipe
    assert all(change.old != change.new and change.why for change in changes)


def test_training_answers_with_the_same_fault_are_counted_with_their_rows() -> None:
    rows = [Dialogue(n, f"What is case {n}?", f"Case {n} passes by itself in {n} days, so rest.") for n in range(1, 20)]
    rows[4] = Dialogue(5, "What is case 5?", "I'm sorry, I can't help with that.")
    reports = {"data": DATA, "train": {}, "scores": {}}
    of = gather(evidence().recipe, reports, rows, ["One two three."], Known(language="en"))
    assert of.with_fault["refuses"] == (1, [5])
    assert causes("refuses", of) == ["1 of 19 training answers looked at have the same fault (rows 5)."]
    assert of.reference_words == 3


def test_the_changed_recipe_says_above_each_change_what_it_was_and_can_be_run() -> None:
    tutorial = evidence({"prompt.end_token": False, "evaluate.decoding": "greedy", "train.epochs": 1})
    changes, recipe = together(["loop"], tutorial)
    text = written(renamed(recipe), changes, "runs/gout")
    lines = text.splitlines()
    place = lines.index("  end_token: true")
    assert lines[place - 1] == "  # was false: a model that never learns the end of an answer never stops"
    assert "  epochs: 1.0" in lines
    assert "  method: lora" not in lines  # what is left out is the default
    import yaml

    again = Recipe.parse(yaml.safe_load(text))
    assert again == renamed(recipe)
    assert (again.name, again.prompt.end_token, again.evaluate.decoding) == ("gout-fixed", True, "auto")


def test_the_nearest_training_example_is_about_the_same_thing() -> None:
    pytest.importorskip("bm25s")
    rows = [
        Dialogue(3, "What is gout?", "A joint that swells suddenly, often the big toe."),
        Dialogue(5, "What is asthma?", "A disease of the airways, with wheezing."),
        Dialogue(8, "What is eczema?", "Dry and itchy skin."),
    ]
    found = Nearest(rows).to("How is asthma treated?", "With inhalers for the airways.")
    assert found[0][0].row == 5
    assert all(score > 0 for _, score in found)
    assert Nearest(rows).to("", "") == []
    assert Nearest([]).to("asthma", "asthma") == []
