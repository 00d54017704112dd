from __future__ import annotations

from typing import Any

import pytest

from residency import environment
from residency.errors import UserError
from residency.prompts import Example
from residency.recipe import Recipe
from residency.train import fit, fitting
from residency.train.planning import job_of, memory_here

EXAMPLES = [Example(tuple(range(100)), 40)] * 24


@pytest.fixture
def recipe(small_recipe: dict[str, Any]) -> Recipe:
    return Recipe.parse(
        {**small_recipe, "train": {"method": "full", "tokens_per_batch": 4096, "examples_per_step": 24}}
    )


def sized(recipe: Recipe) -> int:
    return fitting.needed(recipe, fit._setup(recipe, len(EXAMPLES)), EXAMPLES, [])


def test_candidates_come_nearest_first_and_need_less_and_less(recipe: Recipe) -> None:
    found = list(fitting.candidates(recipe, 4096, 100))
    assert found[0] == recipe
    assert [one.train.tokens_per_batch for one in found[:4]] == [4096, 2048, 1024, 512]
    changes = [(one.train.method, one.train.optimizer) for one in found]
    assert list(dict.fromkeys(changes)) == [("full", "adamw"), ("full", "adafactor"), ("lora", "adamw")]
    sizes = [sized(one) for one in found[:4]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_the_nearest_that_fits_is_taken_and_said(recipe: Recipe) -> None:
    setup = fit._setup(recipe, len(EXAMPLES))
    smaller = recipe.model_copy(update={"train": recipe.train.model_copy(update={"tokens_per_batch": 1024})})
    free = sized(smaller)
    found = fitting.fitted(recipe, setup, EXAMPLES, [], free)
    assert found is not None
    assert fitting.needed(found, setup, EXAMPLES, []) <= free < sized(recipe)
    assert fitting.said(recipe, found) == f"train.tokens_per_batch: {found.train.tokens_per_batch}"
    assert fitting.fitted(recipe, setup, EXAMPLES, [], sized(recipe) + 2**30) == recipe
    assert fitting.fitted(recipe, setup, EXAMPLES, [], 0) is None


def test_what_will_not_fit_is_refused_in_one_line(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = fit._setup(recipe, len(EXAMPLES))
    memory = memory_here(job_of(recipe, setup, EXAMPLES, []), setup.device)
    fitting.refuse(recipe, setup, memory, EXAMPLES, [])
    monkeypatch.setattr(environment, "available_memory", lambda: 0)
    with pytest.raises(UserError, match=r"needs about .* of memory and .* can be had; take a smaller model"):
        fitting.refuse(recipe, setup, memory, EXAMPLES, [])
    monkeypatch.setattr(fitting, "free_memory", lambda device: memory.needed - 1)
    with pytest.raises(UserError, match=r"set train\.tokens_per_batch: \d+, which --fit does for you"):
        fitting.refuse(recipe, setup, memory, EXAMPLES, [])
