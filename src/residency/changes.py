"""What has changed between two recipes, as far as it changes the model that a training ends in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from residency.recipe import Recipe

# How a step is cut and dealt out to ranks, and who watches it, leave the model as it is, but for rounding.
UNIMPORTANT: dict[str, Any] = {
    **dict.fromkeys(("name", "evaluate", "study", "guard"), True),
    "train": {"trackers", "tokens_per_batch", "distributed"},
}


def important(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that decide what its training ends in, as plain values by section."""
    fields = recipe.model_dump(mode="json", exclude=UNIMPORTANT)
    if recipe.train.best_by != "loss":  # the answers that choose the checkpoint are as long as this
        fields["evaluate"] = {"max_new_tokens": recipe.evaluate.max_new_tokens}
    return fields


def changes(was: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> list[str]:
    """A line for each field of both that differs: `train.epochs: was 3, is 4`."""
    found: list[str] = []
    for key in (key for key in was if key in now):
        one, other, name = was[key], now[key], f"{above}{key}"
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += changes(one, other, f"{name}.")
        elif one != other:
            found.append(f"{name}: was {_shown(one)}, is {_shown(other)}")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
