"""Where the rows are cut into shards leaves what comes of them as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_jsonl
from residency.data import prepare, rowwise
from residency.errors import UserError
from residency.models import load_tokenizer
from residency.prompts import Prompt
from residency.recipe import DataSection, Recipe
from residency.workspace import Run

NO_SPLIT = {"test": 0.0, "validation": 0.0}
LAST = "What is it?", "It is fine, as it always was."


@pytest.fixture(scope="module")
def tokenizer(llama_folder: Path) -> Any:
    return load_tokenizer(
        Recipe.parse({"name": "x", "data": {"source": "s"}, "model": {"base": str(llama_folder)}}).model
    )


def prepared(records: list[Any], folder: Path, tokenizer: Any, **data: Any) -> dict[str, bytes]:
    """The files that come of some records."""
    source = write_jsonl(folder / "rows.jsonl", records)
    raw = {"name": "x", "model": {"max_length": 64}, "data": {"source": str(source), **NO_SPLIT, **data}}
    recipe = Recipe.parse(raw)
    run = Run.create(folder / "run", recipe)
    prepare(recipe, run, Prompt.build(recipe.prompt, tokenizer))
    return {path.name: path.read_bytes() for path in (run.folder / "data").iterdir()}


text = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "Q. What  helps?",
            "what helps?",
            "Rest.",
            "x@y.example or a@b.example",
            "<p>Rest</p>",
            "020 7946 0182",
        ]
    ),
    st.integers(1, 40).map(lambda times: "long " * times),
    st.just("a" * (64 * 128 + 1)),
)
asked = st.fixed_dictionaries({"question": text, "answer": text})
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": text})
talk = st.fixed_dictionaries({"messages": st.lists(message, max_size=5)})
pair = st.fixed_dictionaries(
    {"question": text, "answer_a": text, "answer_b": text, "vote": st.sampled_from(["a", "b", "tie", "", "c"])}
)
SURE = {
    "asked": {"question": LAST[0], "answer": LAST[1]},
    "talks": {"messages": [{"role": "user", "content": LAST[0]}, {"role": "assistant", "content": LAST[1]}]},
    "pairs": {"question": LAST[0], "answer_a": LAST[1], "answer_b": "No idea.", "vote": "a"},
}


@settings(deadline=None, max_examples=10)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["asked", "talks", "pairs"])
def test_wherever_the_rows_are_cut_the_same_bytes_are_written(
    kind: str, data: st.DataObject, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    record = {"asked": asked, "talks": talk, "pairs": pair}[kind]
    records = [*data.draw(st.lists(record, max_size=12)), SURE[kind]]
    found = []
    folder = tmp_path_factory.mktemp("cut")
    for rows in (1000, data.draw(st.integers(1, 5))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rowwise, "ROWS", rows)
            found.append(
                prepared(records, folder, tokenizer, on_error="skip", clean=["html", "white-space", "question-prefix"])
            )
    assert found[0] == found[1]


def test_samples_of_cleaning_are_the_first_of_all_rows_and_hold_nothing_private(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowwise, "ROWS", 2)
    records = [{"question": f"Q. case {n}?", "answer": f"Answer  {n}."} for n in range(7)]
    records[1]["answer"] = "Write  to x@y.example"
    written = prepared(records, tmp_path, tokenizer)
    steps = {step["step"]: step for step in json.loads(written["report.json"])["cleaned"]}
    assert [row for row, _, _ in steps["question-prefix"]["samples"]] == [1, 3]
    assert steps["question-prefix"]["rows"] == 7
    assert b"x@y.example" not in written["report.json"]


def test_the_first_faulty_row_stops_whatever_shard_it_stands_in(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [SURE["talks"]] * 9
    records[7] = {"messages": [{"role": "tool", "content": "x"}]}
    records[5] = {"messages": [{"role": "assistant", "content": "x"}]}
    for rows in (1000, 2):
        monkeypatch.setattr(rowwise, "ROWS", rows)
        with pytest.raises(UserError, match="row 6: message 1: an assistant turn with no user turn before it"):
            prepared(records, tmp_path, tokenizer)


def test_long_rows_make_small_shards_and_names_make_one() -> None:
    section = DataSection(source="s")
    short = pl.DataFrame({"row": range(10_000), "answer": ["a"] * 10_000})
    assert [shard.height for shard in rowwise.shards(short, section)] == [4096, 4096, 1808]
    long = pl.DataFrame({"row": range(100), "answer": ["a" * (1 << 20)] * 100})
    sizes = [shard.height for shard in rowwise.shards(long, section)]
    assert sum(sizes) == 100
    assert 1 <= max(sizes) <= 32
    named = section.model_copy(update={"names": True})
    assert [shard.height for shard in rowwise.shards(short, named)] == [10_000]
    assert [shard.height for shard in rowwise.shards(short.clear(), section)] == [0]
