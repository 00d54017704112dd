"""docs/clinic.md tells the truth about the built-in data: every fault that it lists is there, and prepare finds it."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import residency
from residency.data import DataReport, audit, duplicates, prepare, privacy, sources
from residency.data.clean import clean
from residency.data.privacy.finders import EMAIL
from residency.models import load_tokenizer
from residency.prompts import Prompt
from residency.recipe import DataSection, Recipe
from residency.workspace import Run

SENTENCE_END = re.compile(r"(?<=[.!?>])\s+")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "clinic.md").read_text("utf-8")
CLOSINGS = (
    "For further information consult a doctor online -->",
    "Hope this answers your question. Wishing you good health.",
)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    path = Path(residency.__file__).parent / "assets" / "clinic.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> DataReport:
    recipe = Recipe.load(None, [f"model.base={llama_folder}"])
    folder = tmp_path_factory.mktemp("clinic")
    return prepare(recipe, Run.create(folder, recipe), Prompt.build(recipe.prompt, load_tokenizer(recipe.model)))


def documented(fault: str) -> tuple[int, list[list[int]]]:
    """How many rows the document gives for a fault, and their numbers."""
    line = next(line for line in DOCUMENT.splitlines() if line.startswith("|") and fault in line)
    _, _, count, places, _ = line.split("|", 4)
    return int(count), [[int(n) for n in re.findall(r"\d+", entry)] for entry in places.split(",")]


def test_it_has_the_references_columns_and_enough_different_cases(rows: list[dict[str, str]]) -> None:
    assert len(rows) == 378
    assert all(list(row) == ["Description", "Patient", "Doctor"] for row in rows)
    assert len({row["Patient"] for row in rows}) >= 320
    assert len(re.findall(r"^\| [a-z, ]+ \| \d+ to \d+ \|$", DOCUMENT, re.M)) >= 15


def test_a_doctors_sentence_stands_in_one_case_only(rows: list[dict[str, str]]) -> None:
    cases: dict[str, str] = {}
    for row in rows:
        text = row["Doctor"]
        for closing in CLOSINGS:
            text = text.replace(closing, "")
        for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
            if len(sentence.split()) >= 6:
                assert cases.setdefault(sentence, row["Patient"]) == row["Patient"], sentence


def test_prefixes_and_white_space_stand_where_the_document_says(rows: list[dict[str, str]]) -> None:
    count, places = documented("before the question")
    assert [[n] for n, row in enumerate(rows, 1) if row["Description"].startswith("Q. ")] == places
    assert len(places) == count
    count, places = documented("ragged white space")
    ragged = [n for n, row in enumerate(rows, 1) if any(" ".join(t.split()) != t for t in row.values())]
    assert {n for (n,) in places} <= set(ragged)
    assert len(places) == count


def test_stock_closings_stand_where_the_document_says(rows: list[dict[str, str]]) -> None:
    for closing in CLOSINGS:
        count, places = documented(closing)
        found = {n for n, row in enumerate(rows, 1) if closing in row["Doctor"]}
        assert {n for (n,) in places} <= found
        assert len(places) == count


def test_prepare_finds_the_duplicates_and_the_empty_answer(report: DataReport) -> None:
    assert report.dropped == {
        "exact duplicate": documented("exact dup")[0],
        "empty answer": documented("empty answer")[0],
    }
    assert report.near_duplicates == documented("near-dup")[0]
    assert report.leaked == 0
    assert report.random_split_would_leak > 0


def test_prepare_finds_addresses_and_numbers(report: DataReport) -> None:
    assert report.redacted == {"email": documented("e-mail")[0], "phone": documented("phone")[0]}


def test_the_audit_finds_the_closings(report: DataReport) -> None:
    texts: dict[str, Any] = {item["text"]: item["rows"] for item in report.boilerplate}
    assert texts[CLOSINGS[0]] >= documented(CLOSINGS[0])[0] - 1
    assert texts["Hope this answers your question."] >= documented(CLOSINGS[1])[0] - 1


STOCK = (
    "For further information consult a doctor online -->",
    "Hope this answers your question. Wishing you good health.",
)


def places_of(fault: str) -> list[set[int]]:
    """The rows that the document gives for a fault: one number an entry, or a pair; as many as it says."""
    line = next(line for line in DOCUMENT.splitlines() if line.startswith("|") and fault in line)
    _, _, count, places, _ = line.split("|", 4)
    rows = [{int(n) for n in re.findall(r"\d+", entry)} for entry in places.split(",")]
    assert len(rows) == int(count)
    return rows


def single(fault: str) -> list[int]:
    return [row for (row,) in places_of(fault)]


@pytest.fixture(scope="module")
def source() -> pl.DataFrame:
    return sources.load(DataSection(source="clinic")).rows.rename({"Description": "question", "Doctor": "answer"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> tuple[DataReport, Run]:
    recipe = Recipe.load(None, [f"model.base={llama_folder}"])
    made = Run.create(tmp_path_factory.mktemp("clinic"), recipe)
    return prepare(recipe, made, Prompt.build(recipe.prompt, load_tokenizer(recipe.model))), made


@pytest.fixture(scope="module")
def kept(run: tuple[DataReport, Run]) -> pl.DataFrame:
    parts = [pl.read_parquet(run[1].folder / "data" / f"{name}.parquet") for name in ("train", "validation", "test")]
    return pl.concat(parts).sort("row")


@pytest.fixture(scope="module")
def groups(kept: pl.DataFrame) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for row, cluster in zip(kept["row"], duplicates.clusters(kept, 0.8).tolist(), strict=True):
        found.setdefault(cluster, []).append(row)
    return list(found.values())


def test_the_rows_and_cases_are_as_many_as_it_says(run: tuple[DataReport, Run], groups: list[list[int]]) -> None:
    said = re.search(r"(\d+) dialogues.*?(\d+) of them are different cases, 17 in each\s+of (\d+)", DOCUMENT, re.S)
    assert said
    dialogues, cases, specialities = map(int, said.groups())
    assert (run[0].rows_in, len(groups)) == (dialogues, cases)
    assert cases == 17 * specialities >= 320


def test_its_specialities_are_as_many_as_it_says_and_no_row_stands_in_two() -> None:
    spans = [range(int(a), int(b) + 1) for a, b in re.findall(r"^\| [a-z, ]+ \| (\d+) to (\d+) \|$", DOCUMENT, re.M)]
    rows = [row for span in spans for row in span]
    assert len(spans) == 21
    assert len(rows) == len(set(rows))
    assert set(range(1, 379)) - set(rows) <= {row for pair in places_of("near-dup") for row in pair} | {322}
    assert all(len(span) >= 17 for span in spans)


def test_prefixes_and_white_space_are_where_it_says(source: pl.DataFrame) -> None:
    for step, fault in (("question-prefix", "before the question"), ("white-space", "ragged white space")):
        after, (done,) = clean(source.select("row", "question", "answer"), DataSection(source="clinic", clean=(step,)))
        touched = (source["question"] != after["question"]) | (source["answer"] != after["answer"])
        assert source["row"].filter(touched).to_list() == single(fault)
        assert done.rows == len(single(fault))


def test_addresses_and_numbers_are_where_it_says(source: pl.DataFrame, run: tuple[DataReport, Run]) -> None:
    after, counts = privacy.redact(clean(source, DataSection(source="clinic", clean=("white-space",)))[0])
    for kind, fault in (("email", "e-mail"), ("phone", "phone number")):
        mark = f"[{kind.upper()}]"
        here = pl.any_horizontal(pl.col("question", "answer").str.contains(mark, literal=True))
        assert after.filter(here)["row"].to_list() == single(fault)
        assert run[0].redacted[kind] == counts[kind] == len(single(fault))


def test_addresses_are_those_of_nobody(source: pl.DataFrame) -> None:
    found = re.findall(EMAIL, " ".join(source["question"].to_list() + source["answer"].to_list()))
    assert found
    assert all(address.endswith(".example") for address in found)


def test_what_is_dropped_is_what_it_says(run: tuple[DataReport, Run]) -> None:
    dropped = pl.read_parquet(run[1].folder / "data" / "dropped.parquet")
    by_reason = {reason: set(dropped.filter(reason=reason)["row"].to_list()) for reason in run[0].dropped}
    assert by_reason["empty answer"] == set(single("empty answer"))
    assert by_reason["exact duplicate"] == {max(pair) for pair in places_of("exact dup")}
    assert set(by_reason) == {"empty answer", "exact duplicate"}


def test_near_duplicates_are_the_pairs_it_says_and_none_leaks(
    run: tuple[DataReport, Run], groups: list[list[int]]
) -> None:
    pairs = places_of("near-dup")
    assert sorted(map(sorted, pairs)) == [group for group in groups if len(group) > 1]
    assert (run[0].near_duplicates, run[0].leaked) == (len(pairs), 0)


def test_stock_closings_are_where_it_says_and_the_audit_reports_them(
    source: pl.DataFrame, run: tuple[DataReport, Run]
) -> None:
    counted = {item["text"]: item["rows"] for item in run[0].boilerplate}
    dropped = pl.read_parquet(run[1].folder / "data" / "dropped.parquet")["row"].to_list()
    for closing in STOCK:
        rows = source.filter(pl.col("answer").str.contains(closing, literal=True))["row"].to_list()
        assert rows == single(closing)
        for sentence in SENTENCE_END.split(closing):
            assert counted.pop(sentence) == len(set(rows) - set(dropped))
    assert counted == {}


def test_no_doctors_sentence_stands_in_two_of_its_cases(kept: pl.DataFrame, groups: list[list[int]]) -> None:
    sentences: Counter[str] = Counter()
    for answer in kept.filter(pl.col("row").is_in([group[0] for group in groups]))["answer"]:
        own = functools.reduce(lambda text, closing: text.replace(closing, ""), STOCK, answer)
        sentences.update(SENTENCE_END.split(own.strip()))
    assert len(sentences) > 1000
    assert [text for text, count in sentences.items() if count > 1 and len(text.split()) >= audit.SHORTEST] == []
