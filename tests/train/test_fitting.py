from __future__ import annotations

from typing import Any

import pytest

from residency import environment
from residency.errors import UserError
from residency.prompts import Example
from residency.recipe import Recipe
from residency.train import fitting
from residency.train.planning import job_of, memory_here
from residency.train.setup import setup_of

EXAMPLES = [Example(tuple(range(100)), 40)] * 24


@pytest.fixture
def recipe(small_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setattr(environment, "resident", lambda: 2**29)
    return Recipe.parse(
        {**small_recipe, "train": {"method": "full", "tokens_per_batch": 4096, "examples_per_step": 24}}
    )


def needed(recipe: Recipe) -> int:
    setup = setup_of(recipe, [*map(len, EXAMPLES)])
    return memory_here(job_of(recipe, setup, EXAMPLES, []), setup.device).needed


def nearest(recipe: Recipe, free: int) -> Recipe | None:
    return fitting.fitted(recipe, setup_of(recipe, [*map(len, EXAMPLES)]), EXAMPLES, [], free)


def test_changes_are_mildest_first(recipe: Recipe) -> None:
    assert fitting.changes(recipe) == [{}, {"optimizer": "adafactor"}, {"method": "lora"}]
    assert fitting.smaller(4096, 100) == [4096, 2048, 1024, 512, 256, 128, 64]
    assert fitting.smaller(512, 600) == [512]


def test_the_nearest_that_fits_is_taken_and_said(recipe: Recipe) -> None:
    whole = needed(recipe)
    found = nearest(recipe, whole - 2**19)
    assert found is not None
    assert needed(found) <= whole
    assert fitting.said(recipe, found) == f"train.tokens_per_batch: {found.train.tokens_per_batch}"
    assert found.train.tokens_per_batch < recipe.train.tokens_per_batch
    assert nearest(recipe, whole + 2**30) == recipe
    assert nearest(recipe, 0) is None


def test_what_will_not_fit_is_refused_in_one_line(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(recipe, [*map(len, EXAMPLES)])
    memory = memory_here(job_of(recipe, setup, EXAMPLES, []), setup.device)
    fitting.refuse(recipe, setup, memory, EXAMPLES, [])
    monkeypatch.setattr(environment, "available_memory", lambda: 0)
    with pytest.raises(UserError, match=r"needs about .* of memory and .* can be had; take a smaller model"):
        fitting.refuse(recipe, setup, memory, EXAMPLES, [])
    monkeypatch.setattr(fitting, "free_memory", lambda device: memory.needed - 1)
    with pytest.raises(UserError, match=r"set train\.tokens_per_batch: \d+, which --fit does for you"):
        fitting.refuse(recipe, setup, memory, EXAMPLES, [])


def test_going_on_with_what_was_fitted_hides_no_other_change(small_recipe: dict[str, Any]) -> None:
    begun = Recipe.parse({**small_recipe, "train": {"optimizer": "adafactor", "tokens_per_batch": 64}})
    asked = Recipe.parse({**small_recipe, "train": {"learning_rate": 0.5}})
    found = fitting.as_fitted(asked, begun)
    assert (found.train.optimizer, found.train.tokens_per_batch) == ("adafactor", 64)
    assert found.train.learning_rate == 0.5 != begun.train.learning_rate
