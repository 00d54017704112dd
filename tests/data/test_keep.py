from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from transformers import AutoTokenizer

from residency.data import keep
from residency.prompts import Prompt
from residency.recipe import PromptSection, Recipe


@pytest.fixture(scope="module")
def prompt(llama_folder: Path) -> Prompt:
    return Prompt.build(PromptSection(), AutoTokenizer.from_pretrained(llama_folder))


def recipe(**data: Any) -> Recipe:
    return Recipe.parse({"name": "r", "data": {"source": "s"} | data, "model": {"max_length": 64}})


def rows(*answers: str) -> pl.DataFrame:
    numbers = range(1, len(answers) + 1)
    return pl.DataFrame({"row": numbers, "question": [f"Why {n}?" for n in numbers], "answer": answers})


def test_rows_over_the_limit_leave_and_the_others_have_their_prompt_and_lengths(prompt: Prompt) -> None:
    kept, dropped, cut = keep.fitting(rows("Rest.", "word " * 100, "Water."), prompt, recipe())
    assert dropped.select("row", "reason").rows() == [(2, "over max_length")]
    assert kept["row"].to_list() == [1, 3]
    assert kept["prompt"].to_list() == [prompt.text(question) for question in kept["question"]]
    whole = [len(prompt.example(q, a)) for q, a in zip(kept["question"], kept["answer"], strict=True)]
    assert (kept["prompt_tokens"] + kept["answer_tokens"]).to_list() == whole
    assert cut == 0


def test_a_text_that_is_over_the_limit_in_any_case_is_not_cut_into_tokens(
    prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    lengths = Prompt.lengths

    def watched(self: Prompt, texts: Sequence[str], answers: Sequence[str]) -> tuple[list[int], list[int]]:
        seen.extend(answers)
        return lengths(self, texts, answers)

    monkeypatch.setattr(Prompt, "lengths", watched)
    limit = 64 * max(keep.LONGEST_TOKEN, prompt.longest_token)
    kept, dropped, _ = keep.fitting(rows("Rest.", "word " * 100, "a" * (limit + 1), "Water."), prompt, recipe())
    assert [len(answer) for answer in seen] == [5, 500, 6]
    assert dropped.select("row", "reason").rows() == [(2, "over max_length"), (3, "over max_length")]
    assert kept["row"].to_list() == [1, 4]


def test_where_long_rows_are_cut_only_a_prompt_that_fills_the_limit_leaves(prompt: Prompt) -> None:
    given = rows("Rest.", "word " * 100).with_columns(question=pl.Series(["why " * 100, "Why?"]))
    kept, dropped, cut = keep.fitting(given, prompt, recipe(overlong="truncate"))
    assert dropped.select("row", "reason").rows() == [(1, "prompt over max_length")]
    assert (kept["row"].to_list(), cut) == ([2], 1)
