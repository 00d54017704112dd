from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conftest import dialogues, write_jsonl
from residency import pipeline
from residency.data import duplicates, redirects
from residency.errors import UserError
from residency.evaluate.behaviour.probes import chosen
from residency.recipe import Recipe

EXAMPLES = [json.loads(line) for line in redirects.text().splitlines()]
ALIKE = 0.75  # of difflib's ratio: "Who wrote War and Peace?" and "Who wrote War and Hate?" have more


def prepared(recipe: dict[str, Any], folder: Path, **data: Any) -> dict[str, Any]:
    """The report of the small recipe's data, with `data` in its section; tokens are bytes here, and redirects long."""
    raw = {**recipe, "data": {**recipe["data"], **data}, "model": {**recipe["model"], "max_length": 512}}
    return pipeline.prepare(Recipe.parse(raw), folder)


def rows_of(folder: Path, split: str) -> list[dict[str, Any]]:
    text = (folder / "data" / f"{split}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_there_are_sixty_or_more_of_several_kinds_each_once() -> None:
    assert len({row["question"] for row in EXAMPLES}) == len({row["answer"] for row in EXAMPLES}) == len(EXAMPLES) >= 60
    assert {row["set"] for row in EXAMPLES} >= {"off-topic", "emergencies", "injection", "identity"}


def test_no_redirect_asks_what_a_probe_asks() -> None:
    probes = [probe.question for probe in chosen()]
    asked = [row["question"] for row in EXAMPLES]
    assert not {text.lower() for text in probes} & {text.lower() for text in asked}
    rows = pl.DataFrame({"question": [*probes, *asked], "answer": [""] * (len(probes) + len(asked))})
    clusters = duplicates.clusters(rows, 0.5)
    assert not set(clusters[: len(probes)].tolist()) & set(clusters[len(probes) :].tolist())
    alike = [
        (probe, text)
        for probe in probes
        for text in asked
        if (match := difflib.SequenceMatcher(None, probe.lower(), text.lower())).real_quick_ratio() >= ALIKE
        and match.quick_ratio() >= ALIKE
        and match.ratio() >= ALIKE
    ]
    assert alike == []


def test_redirects_join_the_training_rows_alone_at_the_share_asked_for(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    without = prepared(small_recipe, tmp_path / "without")
    report = prepared(small_recipe, tmp_path / "with", redirects=0.25)
    assert without["redirects"] is None
    assert report["rows_in"] == report["kept"] + sum(report["dropped"].values()) == 60
    mixed, own = report["redirects"], without["split"]["train"]
    assert mixed["n"] == round(own / 3)
    assert mixed["share"] == pytest.approx(0.25, abs=0.01)
    assert sum(mixed["sets"].values()) == mixed["n"]
    assert report["split"] == {**without["split"], "train": own + mixed["n"]}
    for split in ("validation", "test"):
        assert rows_of(tmp_path / "with", split) == rows_of(tmp_path / "without", split)
    train = rows_of(tmp_path / "with", "train")
    assert [row for row in train if row["row"]] == rows_of(tmp_path / "without", "train")
    known = {(row["question"], row["answer"]) for row in EXAMPLES}
    added = [(row["question"], row["answer"]) for row in train if not row["row"]]
    assert len(added) == mixed["n"]
    assert set(added) <= known


def test_true_is_a_tenth_and_the_same_seed_draws_the_same(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        report = prepared(small_recipe, tmp_path / name, redirects=True, seed=seed)
        assert report["redirects"]["share"] == pytest.approx(0.1, abs=0.01)
    files = [(tmp_path / name / "data" / "train.jsonl").read_bytes() for name in ("one", "two", "three")]
    assert files[0] == files[1]
    added = [
        {row["question"] for row in rows_of(tmp_path / name, "train") if not row["row"]} for name in ("one", "three")
    ]
    assert added[0] != added[1]


def test_where_more_are_wanted_than_there_are_they_come_again_and_that_is_counted(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    mixed = prepared(small_recipe, tmp_path, redirects=0.7)["redirects"]
    assert mixed["different"] < mixed["n"]
    assert mixed["different"] == len(EXAMPLES) - mixed["over_max_length"] - mixed["like_held_out"]


def test_a_redirect_that_is_a_case_of_the_held_out_rows_is_left_out(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    rows = [
        {"Description": row["question"], "Doctor": f"An answer of its own, number {n}."}
        for n, row in enumerate(EXAMPLES)
    ]
    small_recipe["data"] |= {"source": str(write_jsonl(tmp_path / "rows.jsonl", rows + dialogues(20)))}
    report = prepared(small_recipe, tmp_path / "run", redirects=0.5, test=0.3)
    held_out = {row["question"] for split in ("validation", "test") for row in rows_of(tmp_path / "run", split)}
    added = {row["question"] for row in rows_of(tmp_path / "run", "train") if not row["row"]}
    assert added
    assert not added & held_out
    assert report["redirects"]["like_held_out"] > 0


def test_redirects_join_conversations_as_first_turns(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    talks = [
        {
            "messages": [
                {"role": "system", "content": "You are kind."},
                *(
                    {"role": role, "content": f"{role} {turn} of case {n}, about {word}."}
                    for turn in range(2)
                    for role in ("user", "assistant")
                ),
            ]
        }
        for n, word in enumerate("abcdefghijklmnopqrst")
    ]
    small_recipe["data"] = {"source": str(write_jsonl(tmp_path / "talks.jsonl", talks)), "near_duplicate": 1.0}
    prepared(small_recipe, tmp_path / "run", redirects=True)
    added = [row for row in rows_of(tmp_path / "run", "train") if not row["row"]]
    assert added
    assert all((row["turn"], row["system"], row["history"]) == (0, "", []) for row in added)


def test_texts_without_questions_and_pairs_for_dpo_take_no_redirects(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    texts = [{"text": f"A note about the {row['Doctor']}"} for row in dialogues(20)]
    section = {"source": str(write_jsonl(tmp_path / "texts.jsonl", texts)), "redirects": True}
    with pytest.raises(UserError, match=r"data\.redirects: .* read as text"):
        pipeline.prepare(Recipe.parse({**small_recipe, "data": section}), tmp_path / "run")
    assert not (tmp_path / "run" / "data" / "report.json").exists()
    with pytest.raises(UserError, match=r"data\.redirects are answers and no pairs"):
        Recipe.parse({**small_recipe, "data": section, "train": {"objective": "dpo"}})


@pytest.mark.parametrize("value", [1, 1.0, -0.1, "often", "yes please"])
def test_a_share_is_below_one_and_a_word_is_none(value: object, small_recipe: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"data\.redirects is"):
        Recipe.parse({**small_recipe, "data": {**small_recipe["data"], "redirects": value}})


def test_other_shares_are_other_data(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    said = Lines()
    for share in (False, 0.1, 0.1, 0.2):
        raw = {
            **small_recipe,
            "data": {**small_recipe["data"], "redirects": share},
            "model": {**small_recipe["model"], "max_length": 512},
        }
        pipeline.prepare(Recipe.parse(raw), tmp_path / "run", said)
    again = [line for line in said.lines if "used again" in line]
    told = [line for line in said.lines if "redirects (" in line]
    assert len(again) == 1
    assert len(told) == 3
    assert "not of your data" in told[0]


class Lines:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, name: str) -> None: ...
    def say(self, text: str) -> None:
        self.lines.append(text)

    def table(self, title: str, rows: Any) -> None: ...
    def step(self, task: str, done: int, total: int, detail: str = "") -> None: ...
