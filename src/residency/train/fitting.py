"""A run that will not fit: refused before anything is loaded, with the nearest setting that does fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from residency import environment
from residency.errors import UserError
from residency.forecast.memory import Memory
from residency.prompts import Example
from residency.recipe import Recipe
from residency.train.planning import gib, job_of, memory_here

if TYPE_CHECKING:
    from residency.train.fit import Setup

LEAST_TOKENS = 64  # micro-batches are not proposed smaller


def free_memory(device: torch.device) -> int:
    """Bytes that this process may hold in all: what it holds on a CPU, and what is free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return environment.resident() + environment.available_memory()


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

    def fits(tried: Recipe) -> bool:
        return needed(tried, setup, examples, validation) <= free

    return next(filter(fits, candidates(recipe, setup.tokens_per_batch, max(map(len, examples)))), None)


def needed(recipe: Recipe, setup: Setup, examples: Sequence[Example], validation: Sequence[Example]) -> int:
    """Bytes that a recipe's training needs on this machine."""
    tokens = recipe.train.tokens_per_batch
    if tokens != "auto":
        setup = replace(setup, tokens_per_batch=tokens)
    return memory_here(job_of(recipe, setup, examples, validation), setup.device).needed


def candidates(recipe: Recipe, tokens: int, longest: int) -> Iterator[Recipe]:
    """Recipes that need less and less, each as near to the one given as it can be."""
    whole: list[dict[str, Any]] = [{}]
    if recipe.train.optimizer != "adafactor":
        whole.append({"optimizer": "adafactor"})
    if recipe.train.method == "full":
        whole.append({"method": "lora"})
    sizes = [tokens]
    while sizes[-1] > max(longest, LEAST_TOKENS):  # the longest example goes through alone, whatever the budget
        sizes.append(sizes[-1] // 2)
    for change in whole:
        for size in sizes:
            smaller = {} if size == tokens else {"tokens_per_batch": size}
            yield recipe.model_copy(update={"train": recipe.train.model_copy(update={**change, **smaller})})


def said(recipe: Recipe, nearest: Recipe) -> str:
    """What differs, as a user writes it."""
    before, after = recipe.train.model_dump(), nearest.train.model_dump()
    return ", ".join(f"train.{name}: {after[name]}" for name in after if after[name] != before[name])
