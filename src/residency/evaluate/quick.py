"""A few answers of a model that is still learning, judged: what chooses the best checkpoint beside the loss."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from residency.evaluate.answers.generate import GREEDY, answer
from residency.evaluate.exam import question_of
from residency.evaluate.scores import score
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.workspace import Run


def judge(recipe: Recipe, run: Run, prompt: Prompt) -> Callable[[Any], dict[str, float]]:
    """A function from a model to its means over the first `train.best_questions` validation questions, under greedy.

    They are `rouge_l` and `chrf`, from 0 to 100, and `stopped`, the share of answers that end by themselves.
    """
    questions = [question_of(d) for d in run.dialogues("validation")][: recipe.train.best_questions]
    prompts = [prompt.prompt_ids(asked.question, asked.before) for asked in questions]
    section = recipe.evaluate

    def judged(model: Any) -> dict[str, float]:
        given = answer(
            model, prompt, prompts, GREEDY, max_new_tokens=section.max_new_tokens, batch=section.batch
        ).answers
        overlaps = [score.overlap(a.text, q.reference) for a, q in zip(given, questions, strict=True)]
        means = {name: fmean(own[name] for own in overlaps) for name in ("rouge_l", "chrf")}
        return {**means, "stopped": fmean(a.stopped for a in given)}

    return judged
