"""Pairs of answers in every form that they come in, and what prepare makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import PEOPLE, TOPICS, write_jsonl
from residency import pipeline
from residency.data import preferences
from residency.data.dialogues import complete, read
from residency.data.look import look
from residency.data.schema import recognise
from residency.errors import UserError
from residency.recipe import DataSection, Recipe
from residency.workspace import Dialogue, Run

SYSTEM = {"role": "system", "content": "Be kind."}
USER = {"role": "user", "content": "Is it a cold?"}
EARLIER = [{"role": "user", "content": "I cough."}, {"role": "assistant", "content": "Since when?"}]
YES, NO = ({"role": "assistant", "content": text} for text in ("Yes, rest.", "No idea."))
PAIR = ("Is it a cold?", "Yes, rest.", "No idea.")


def pairs_of(records: list[dict[str, Any]], **settings: Any) -> pl.DataFrame:
    """The pairs that are read from records, before anything is cleaned or dropped."""
    table = pl.DataFrame(records, infer_schema_length=None).with_row_index("row", 1)
    section = DataSection(source="s", **settings)
    return complete(read(table, recognise(table, section), section.on_error).rows)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": PAIR[0], "chosen": PAIR[1], "rejected": PAIR[2]},
        {"Question": PAIR[0], "Chosen": PAIR[1], "Rejected": PAIR[2]},
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"prompt": PAIR[0], "chosen": [YES], "rejected": [NO]},
        {"prompt": [USER], "chosen": PAIR[1], "rejected": PAIR[2]},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": "the same again", "chosen": [USER, YES], "rejected": [USER, NO]},
        {"chosen": [{"from": "human", "value": PAIR[0]}, {"from": "gpt", "value": PAIR[1]}],
         "rejected": [{"from": "human", "value": PAIR[0]}, {"from": "gpt", "value": PAIR[2]}]},
        {"question": PAIR[0], "answer_a": PAIR[1], "answer_b": PAIR[2], "vote": "a"},
        {"question": PAIR[0], "answer_a": PAIR[2], "answer_b": PAIR[1], "vote": "B"},
        {"question": PAIR[0], "a": "x", "b": "y", "answer_a": PAIR[2], "answer_b": PAIR[1], "winner": "b"},
    ],
)  # fmt: skip
def test_a_pair_is_recognised_in_every_form(record: dict[str, Any]) -> None:
    rows = pairs_of([record])
    assert rows.select("question", "answer", "rejected").rows() == [PAIR]


def test_the_recipes_columns_are_taken_as_named() -> None:
    record = {"ask": PAIR[0], "good": PAIR[1], "bad": PAIR[2], "prompt": "x", "chosen": "y", "rejected": "z"}
    rows = pairs_of([record], question="ask", answer="good", rejected="bad")
    assert rows.select("question", "answer", "rejected").rows() == [PAIR]
    assert pairs_of([record], question="ask").select("question", "answer").row(0) == (PAIR[0], "y")
    assert "rejected" not in pairs_of([record], question="ask", answer="good").columns


def test_what_was_said_before_the_question_becomes_its_history() -> None:
    shared = [SYSTEM, *EARLIER, USER]
    rows = pairs_of([{"chosen": [*shared, YES], "rejected": [*shared, NO]}])
    assert rows.height == 1
    assert rows.select("system", "question", "answer", "rejected").row(0) == ("Be kind.", *PAIR)
    assert rows["history"].to_list() == [[["I cough.", "Since when?"]]]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"chosen": [*EARLIER, USER, YES], "rejected": [USER, NO]}, "differ before their last message"),
        ({"chosen": [USER, YES], "rejected": [USER, NO, USER]}, "rejected, message 3: the last one is the user's"),
        ({"chosen": [USER, YES], "rejected": []}, "rejected is empty"),
        ({"chosen": [YES], "rejected": [NO]}, "chosen, message 1: an assistant turn with no user turn before it"),
        ({"prompt": "q", "answer_a": "x", "answer_b": "y", "vote": "c"}, 'vote is "c", expected a, b, tie or both bad'),
    ],
)
def test_a_record_that_holds_no_pair_stops_or_is_counted(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=f"row 1: .*{reason}"):
        pairs_of([record])
    table = pl.DataFrame([record]).with_row_index("row", 1)
    found = read(table, recognise(table, DataSection(source="s")), "skip")
    assert found.rows.is_empty()
    assert pl.concat(found.dropped)["reason"].to_list() == ["malformed pair"]


def test_two_texts_without_a_question_are_refused() -> None:
    with pytest.raises(UserError, match=r"no column holds the question.*name it as data\.question"):
        pairs_of([{"chosen": "a", "rejected": "b"}])
    with pytest.raises(UserError, match=r"data\.answer is missing"):
        pairs_of([{"prompt": "q", "chosen": "a", "rejected": "b"}], rejected="rejected")


@settings(deadline=None, max_examples=40)
@given(votes=st.lists(st.sampled_from(["a", "b", "tie", "both bad", "A ", "", "neither", None]), max_size=20))
def test_every_vote_gives_a_pair_or_is_counted(votes: list[str | None]) -> None:
    count = len(votes)
    rows = pl.DataFrame(
        {"row": range(count), "question": ["q"] * count, "answer": ["a"] * count, "rejected": ["b"] * count},
        schema_overrides={"row": pl.UInt32, "question": pl.String, "answer": pl.String, "rejected": pl.String},
    )
    found = preferences.from_votes(rows, pl.Series(votes, dtype=pl.String).fill_null(""))
    assert found.rows.height + found.undecided.height + len(found.malformed) == count
    said = [vote.strip().lower() for vote in votes if vote and vote.strip().lower() in ("a", "b")]
    assert found.rows["answer"].to_list() == said


def topics(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"What should {PEOPLE[n % 6]} do about a {TOPICS[n % 10]} on day {n}?",
            "chosen": f"Rest for {n} days, then see a doctor about the {TOPICS[n % 10]}.",
            "rejected": f"I do not know what the {TOPICS[n % 10]} of {PEOPLE[n % 6]} is, write to me{n}@mail.example.",
        }
        for n in range(count)
    ]


def prepared(rows: list[dict[str, Any]], folder: Path, llama: Path, **data: Any) -> tuple[dict[str, Any], Run]:
    raw = {
        "name": "pairs",
        "data": {"source": str(write_jsonl(folder / "pairs.jsonl", rows)), **data},
        "model": {"base": str(llama), "max_length": 128},
    }
    report = pipeline.prepare(Recipe.parse(raw), folder / "run")
    return report, Run.open(folder / "run")


def test_the_rejected_answer_is_cleaned_redacted_and_written_like_the_chosen_one(
    llama_folder: Path, tmp_path: Path
) -> None:
    rows = topics(30)
    rows[0]["rejected"] = "Too   much   space\u200b."
    report, run = prepared(rows, tmp_path, llama_folder)
    found: dict[int, Dialogue] = {d.row: d for name in report["split"] for d in run.dialogues(name)}
    assert found[1].rejected == "Too much space."
    assert found[2].rejected.endswith("write to [EMAIL].")
    assert report["redacted"]["email"] == 29
    assert report["tokens"]["rejected"]["median"] > 0
    assert report["shape"] == "preference: prompt -> chosen over rejected"


def test_pairs_that_teach_nothing_are_dropped_and_counted(llama_folder: Path, tmp_path: Path) -> None:
    rows = topics(30)
    rows[0]["rejected"] = f" {rows[0]['chosen']} "
    rows[1]["rejected"] = ""
    rows[2]["rejected"] = "far too long " * 200
    rows.append(rows[5])
    report, _ = prepared(rows, tmp_path, llama_folder)
    assert report["dropped"] == {
        "chosen equals rejected": 1,
        "empty rejected answer": 1,
        "over max_length": 1,
        "exact duplicate": 1,
    }
    assert report["rows_in"] == report["kept"] + sum(report["dropped"].values()) == 31


def test_votes_that_decided_nothing_are_left_out_and_counted(llama_folder: Path, tmp_path: Path) -> None:
    votes = ["a", "b", "tie", "both bad", "a", "b", "tie", "both_bad"] * 5
    rows = [
        {"question": row["prompt"], "answer_a": row["chosen"], "answer_b": row["rejected"], "vote": vote, "who": "me"}
        for row, vote in zip(topics(40), votes, strict=True)
    ]
    report, run = prepared(rows, tmp_path, llama_folder)
    assert report["dropped"] == {"vote: tie": 10, "vote: both bad": 10}
    assert report["kept"] == 20
    assert report["shape"] == "votes: question -> answer_a or answer_b, as vote says"
    dropped = pl.read_parquet(run.folder / "data" / "dropped.parquet")
    assert dropped["position"].to_list()[0].endswith("pairs.jsonl line 3")
    chosen_a = [d for name in report["split"] for d in run.dialogues(name) if d.row % 4 == 1]
    assert all(d.answer.startswith("Rest for") for d in chosen_a)


def test_pairs_of_one_question_or_conversation_stay_in_one_split(llama_folder: Path, tmp_path: Path) -> None:
    rows = topics(30)
    rows += [{**row, "rejected": f"Another word on case {n}, but no advice."} for n, row in enumerate(rows)]
    report, run = prepared(rows, tmp_path, llama_folder, test=0.2, validation=0.2)
    where = {name: {d.question for d in run.dialogues(name)} for name in report["split"]}
    assert not where["train"] & where["test"] and not where["train"] & where["validation"]
    assert report["kept"] == 60


def test_the_audit_names_opposite_preferences_and_pairs_told_by_length(llama_folder: Path, tmp_path: Path) -> None:
    rows = topics(30)
    rows.append({**rows[4], "chosen": rows[4]["rejected"], "rejected": rows[4]["chosen"]})
    report, _ = prepared(rows, tmp_path, llama_folder)
    kinds = {finding["kind"]: finding for finding in report["findings"]}
    assert kinds["opposite-preferences"]["count"] == 2
    assert "longer-is-chosen" not in kinds  # most of the chosen answers are the shorter ones
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in topics(30)]
    (tmp_path / "turned").mkdir()
    report, _ = prepared(turned, tmp_path / "turned", llama_folder)
    assert {f["kind"] for f in report["findings"]} >= {"longer-is-chosen"}


def test_a_preference_is_not_learnt_from_plain_answers(data_file: Path, llama_folder: Path, tmp_path: Path) -> None:
    raw = {
        "name": "x",
        "data": {"source": str(data_file)},
        "model": {"base": str(llama_folder)},
        "train": {"objective": "dpo"},
    }
    with pytest.raises(UserError, match=r"train\.objective is dpo.*read as question/answer.*expected pairs of answers"):
        pipeline.prepare(Recipe.parse(raw), tmp_path / "run")


def test_a_recipe_is_proposed_for_pairs_and_for_votes(tmp_path: Path) -> None:
    source = str(write_jsonl(tmp_path / "pairs.jsonl", topics(9)))
    found = look(source)
    assert found.data == {"source": source, "question": "prompt", "answer": "chosen", "rejected": "rejected"}
    assert found.train["objective"] == "dpo"
    rows = [{"question": "q", "answer_a": "x", "answer_b": "y z", "vote": "tie"}]
    source = str(write_jsonl(tmp_path / "votes.jsonl", rows))
    assert look(source).data == {"source": source}
    talk = [{"chosen": [USER, YES], "rejected": [USER, NO]}]
    found = look(str(write_jsonl(tmp_path / "talk.jsonl", talk)))
    assert (found.data["answer"], found.data["rejected"]) == ("chosen", "rejected")
    assert "question" not in found.data
    assert "has about 6 words" in found.lines[-2]
