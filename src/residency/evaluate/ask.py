"""Questions that are no exam: to base and tuned, or to the base as a writer of replies for other stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from residency import environment, models
from residency.evaluate.answers.generate import GREEDY, answer
from residency.evaluate.behaviour.trial import decoding_of
from residency.evaluate.exam import Exam, Question
from residency.evaluate.scores.values import Facts
from residency.progress import Progress, Silent
from residency.prompts import Prompt
from residency.recipe import ModelSection, PromptSection, Recipe
from residency.workspace import Run

Ask = Callable[[list[str]], list[str]]


def replies(
    recipe: Recipe, run: Run, prompt: Prompt, questions: Sequence[str], progress: Progress | None = None
) -> list[dict[str, str]]:
    """Each question with the answers of base and tuned, under the decoding that lies in the run's model.

    Raises:
        UserError: the run was not trained.
    """
    progress = progress or Silent()
    folder, decoding = run.need("model", "train"), decoding_of(run)
    exam = Exam(recipe, prompt, [], Facts(), progress)
    asked = [Question(place, question, "") for place, question in enumerate(questions, start=1)]
    loads: dict[str, Callable[[], Any]] = {
        "base": lambda: models.load_base(recipe.model, models.fast_dtype(), progress=progress),
        "tuned": lambda: models.load_tuned(folder, models.fast_dtype()),
    }
    said = {}
    for name, load in loads.items():
        model = load().to(models.device())
        said[name] = exam.ask(model, asked, decoding, f"Answers of the {name} model").answers
    return [
        {"question": question, **{name: own[place].text for name, own in said.items()}}
        for place, question in enumerate(questions)
    ]


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
