"""A changed recipe as a file for people: the keys that differ from the defaults, and above each change what it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from residency.evaluate.faults.remedies import Change
from residency.recipe import Recipe

ENDING = "-fixed"


def renamed(recipe: Recipe) -> Recipe:
    """The recipe under a name of its own, so that its run leaves the earlier one in place."""
    return recipe.model_copy(update={"name": recipe.name + ENDING})


def written(recipe: Recipe, changes: Sequence[Change], run: str) -> str:
    """The changed recipe as YAML with comments; it is a whole recipe, since what is left out is the default."""
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    whole = recipe.model_dump(mode="json")
    for change in changes:  # also one that goes back to the default
        _put(values, whole, change.key.split("."))
    told = {change.key: change for change in changes}
    head = (
        f"# The recipe of {run} with {len(changes)} change{'s' if len(changes) != 1 else ''} that its faults ask for."
    )
    return "\n".join([head, *_lines(values, told, "", "")]) + "\n"


def _put(values: dict[str, Any], whole: dict[str, Any], path: list[str]) -> None:
    for part in path[:-1]:
        values, whole = values.setdefault(part, {}), whole[part]
    values[path[-1]] = whole[path[-1]]


def _lines(values: dict[str, Any], told: dict[str, Change], above: str, indent: str) -> Iterator[str]:
    for name, value in values.items():
        key = f"{above}{name}"
        if key in told:
            yield f"{indent}# {told[key].was()}: {told[key].why}"
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, told, f"{key}.", indent + "  ")
        else:
            yield f"{indent}{name}: {_flow(value)}"


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
