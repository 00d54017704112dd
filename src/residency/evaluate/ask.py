"""A base model that writes replies to prompts, for stages that may not import torch themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from residency import environment, models
from residency.evaluate.answers.generate import GREEDY, answer
from residency.progress import Progress, Silent
from residency.prompts import Prompt
from residency.recipe import ModelSection, PromptSection

Ask = Callable[[list[str]], list[str]]


def asker(section: ModelSection, max_new_tokens: int, progress: Progress | None = None) -> Ask:
    """A function that has the recipe's base model reply to prompts, all of a call in one batch, under plain greedy.

    The model is asked in its own chat template where it has one, without the recipe's system message: that one is for
    the subject, and not for this work. It is loaded at the first call.
    """
    loaded: list[tuple[Any, Prompt]] = []
    progress = progress or Silent()

    def ask(prompts: list[str]) -> list[str]:
        if not prompts:
            return []
        if not loaded:
            loaded.append(_load(section, progress))
        model, prompt = loaded[0]
        ids = [prompt.prompt_ids(text) for text in prompts]
        with models.quiet_libraries():
            found = answer(model, prompt, ids, GREEDY, max_new_tokens=max_new_tokens, batch=len(ids), say=progress.say)
        return [reply.text for reply in found.answers]

    return ask


def _load(section: ModelSection, progress: Progress) -> tuple[Any, Prompt]:
    progress.say(f"Asking {section.base} itself")
    environment.keep_freed_memory()
    model: Any = models.load_base(section, models.fast_dtype(), progress=progress)
    prompt = Prompt.build(PromptSection(), models.load_tokenizer(section, progress))
    return model.to(models.device()), prompt
