"""A run that will not fit: refused before anything is loaded, with the nearest setting that does fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from residency import environment, ranks
from residency.errors import UserError
from residency.forecast.memory import Memory
from residency.prompts import Example
from residency.recipe import Recipe
from residency.train.planning import gib, job_of, memory_here
from residency.train.setup import Setup

LEAST_TOKENS = 64  # micro-batches are not proposed smaller
MAY_CHANGE = ("tokens_per_batch", "optimizer", "method")


def free_memory(device: torch.device) -> int:
    """Bytes that this process may hold in all: what it holds on a CPU, and what is free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return environment.resident() + environment.available_memory() // ranks.on_this_machine()


def refuse(
    recipe: Recipe, setup: Setup, memory: Memory, examples: Sequence[Example], validation: Sequence[Example]
) -> None:
    """Let a run pass that fits.

    Raises:
        UserError: it will not; the message names the nearest setting that will.
    """
    free = free_memory(setup.device)
    if memory.needed <= free:
        return
    nearest = fitted(recipe, setup, examples, validation, free)
    fix = f"set {said(recipe, nearest)}, which --fit does for you" if nearest else "take a smaller model"
    raise UserError(f"this run needs about {gib(memory.needed)} of memory and {gib(free)} can be had", "", fix)


def fitted(
    recipe: Recipe, setup: Setup, examples: Sequence[Example], validation: Sequence[Example], free: int
) -> Recipe | None:
    """The nearest recipe whose run needs at most `free` bytes: the recipe itself where it fits; None where none does.

    Nearest first: smaller micro-batches, which change no result; then Adafactor; then LoRA in place of every weight.
    """
    for change in changes(recipe):
        changed = _trained(recipe, change)
        job = job_of(changed, setup, examples, validation)
        sizes = smaller(setup.tokens_per_batch, max(map(len, examples)))
        fitting = (size for size in sizes if memory_here(job.with_tokens(size), setup.device).needed <= free)
        if memory_here(job.with_tokens(sizes[-1]), setup.device).needed <= free:
            size = next(fitting)
            return changed if size == setup.tokens_per_batch else _trained(changed, {"tokens_per_batch": size})
    return None


def changes(recipe: Recipe) -> list[dict[str, Any]]:
    """What may be changed so that a run needs less, the mildest first; the first changes nothing."""
    found: list[dict[str, Any]] = [{}]
    if recipe.train.optimizer != "adafactor":
        found.append({"optimizer": "adafactor"})
    if recipe.train.method == "full":
        found.append({"method": "lora"})
    return found


def as_fitted(recipe: Recipe, before: Recipe) -> Recipe:
    """The recipe with what fitting had changed when `before` was trained; any other difference stays."""
    return _trained(recipe, {name: getattr(before.train, name) for name in MAY_CHANGE})


def smaller(tokens: int, longest: int) -> list[int]:
    """Budgets of a micro-batch, each half of the one before; the longest example goes through alone, whatever it is."""
    sizes = [tokens]
    while sizes[-1] > max(longest, LEAST_TOKENS):
        sizes.append(sizes[-1] // 2)
    return sizes


def said(recipe: Recipe, nearest: Recipe) -> str:
    """What differs, as a user writes it."""
    before, after = recipe.train.model_dump(), nearest.train.model_dump()
    return ", ".join(f"train.{name}: {after[name]}" for name in after if after[name] != before[name])


def _trained(recipe: Recipe, change: dict[str, Any]) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=change)})
