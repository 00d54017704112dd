"""Turn a general language model into a specialist on your own dialogues, and prove that it became one.

    from pathlib import Path
    from residency import Recipe, pipeline

    recipe = Recipe.load("doctor.yaml")
    page = pipeline.run(recipe, Path("runs/doctor"))

What is named here loads when it is first used, so that the command line starts at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from residency import notebook, pipeline
    from residency.errors import Interrupted, UserError
    from residency.recipe import Recipe
    from residency.workspace import Run

__all__ = ["Interrupted", "Recipe", "Run", "UserError", "notebook", "pipeline"]

_HOMES = {"Interrupted": "errors", "UserError": "errors", "Recipe": "recipe", "Run": "workspace"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"residency.{_HOMES[name]}"), name)
    if name in ("notebook", "pipeline"):
        return import_module(f"residency.{name}")
    raise AttributeError(f"module 'residency' has no attribute {name!r}")
