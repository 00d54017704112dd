from __future__ import annotations

from typing import Any

import pytest

from residency.changes import changes, important
from residency.recipe import Recipe


def recipe(**sections: Any) -> Recipe:
    return Recipe.parse({"name": "x", "data": {"source": "clinic"}, **sections})


def between(one: Recipe, other: Recipe) -> list[str]:
    return changes(important(one), important(other))


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        ({"train": {"epochs": 4, "seed": 1}}, ["train.epochs: was 3, is 4", "train.seed: was 42, is 1"]),
        ({"train": {"lora": {"targets": ["q", "v"]}}}, ['train.lora.targets: was ["all-linear"], is ["q", "v"]']),
        ({"train": {"continue_from": "runs/a"}}, ["train.continue_from: was null, is runs/a"]),
        ({"model": {"base": "other"}}, ["model.base: was smollm2-135m-instruct, is other"]),
        ({"data": {"source": "clinic", "redact": False}}, ["data.redact: was true, is false"]),
        ({"prompt": {"system": ""}}, ['prompt.system: was null, is ""']),
        ({"evaluate": {"questions": 3}}, []),
        ({"train": {"trackers": ["tensorboard"], "tokens_per_batch": 64}}, []),
        ({"name": "y"}, []),
    ],
)
def test_each_field_that_decides_the_model_is_shown_as_it_was_and_is(
    sections: dict[str, Any], found: list[str]
) -> None:
    assert between(recipe(), recipe(**sections)) == found


def test_the_length_of_answers_matters_where_answers_choose_the_checkpoint() -> None:
    one, other = (
        recipe(train={"best_by": "chrf"}, evaluate={"max_new_tokens": tokens, "questions": tokens}) for tokens in (5, 6)
    )
    assert between(one, other) == ["evaluate.max_new_tokens: was 5, is 6"]


def test_a_field_that_one_side_does_not_know_is_no_change() -> None:
    assert changes({"train": {"old": 1, "same": 2}}, {"train": {"new": 1, "same": 2}}) == []
