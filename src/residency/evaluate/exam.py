"""What every system goes through: the questions, asked so that an interruption costs none of the answers."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from residency.evaluate.answers.generate import Decoding, answer
from residency.evaluate.behaviour.probes import built_in
from residency.evaluate.partial import Part, Partial, key
from residency.evaluate.scores import values as scored
from residency.evaluate.systems import Given, Kept, System
from residency.progress import Progress
from residency.prompts import NOTHING, Before, Prompt
from residency.recipe import Recipe
from residency.workspace import OWN, Dialogue

OPENING = 0.25  # share of a plain text that is given, where there is no question
OFF_TOPIC = 10  # questions of the probe set off-topic


@dataclass(frozen=True)
class Question:
    """What is asked, what a person answered, and the row it came from."""

    row: int
    question: str
    reference: str
    before: Before = NOTHING


@dataclass(frozen=True)
class Exam:
    """What every system goes through: the questions, how they are put, and who is told of it."""

    recipe: Recipe
    prompt: Prompt
    tests: list[Question]
    facts: scored.Facts
    progress: Progress

    def ask(self, model: Any, questions: list[Question], decoding: Decoding, task: str) -> Any:
        """A model's answers to some questions; progress goes by under the name of `task`."""
        section = self.recipe.evaluate
        return answer(
            model,
            self.prompt,
            [self.prompt.prompt_ids(asked.question, asked.before) for asked in questions],
            decoding,
            max_new_tokens=section.max_new_tokens,
            batch=section.batch,
            tell=lambda done, total: self.progress.step(task, done, total, "tokens"),
            say=self.progress.say,
        )


@dataclass(frozen=True)
class KeptExam(Exam):
    """An exam for any system, whose answers are on the disk as they come: one that was stopped goes on."""

    partial: Partial

    def ask(self, model: System, questions: list[Question], decoding: Decoding, task: str) -> Kept:
        """A system's answers to some questions, those alone asked that were not before an interruption.

        Progress goes by under the name of `task`, which tells sets of questions apart.
        """
        section = self.recipe.evaluate
        part = self.partial.of(
            system=model.decided_by(), decoding=decoding.settings(), max_new_tokens=section.max_new_tokens
        )
        contents = [model.content(asked.question, asked.before) for asked in questions]
        asked = [key([task, place, content]) for place, content in enumerate(contents)]
        missing = [place for place, one in enumerate(asked) if one not in part]
        before = _spent(part, task)
        if missing:
            if len(missing) < len(asked):
                self.progress.say(f"{task}: {len(asked) - len(missing)} of {len(asked)} are here from the last time")
            model.ready()
            started = time.perf_counter()

            def heard(number: int, given: Given) -> None:
                spent = before + time.perf_counter() - started
                part.keep(asked[missing[number]], {"task": task, "spent": spent, "answer": asdict(given)})

            model.ask(
                [contents[place] for place in missing],
                decoding,
                max_new_tokens=section.max_new_tokens,
                batch=section.batch,
                tell=lambda done, total: self.progress.step(task, done, total, model.unit),
                heard=heard,
                say=self.progress.say,
            )
        return Kept([Given(**part[one]["answer"]) for one in asked], _spent(part, task))

    def likelihoods(self, system: System) -> tuple[list[tuple[float, int]], list[int]]:
        """Each reference answer's summed NLL and tokens, and its bytes; empty where none is said."""
        limit = self.recipe.model.max_length
        found = [(test, system.example(test.question, test.reference, limit, test.before)) for test in self.tests]
        told = [(test, example) for test, example in found if example is not None]
        if not told:
            return [], []
        examples = [example for _, example in told]
        part = self.partial.of(system=system.decided_by(), likelihoods=True)
        asked = key([[example.input_ids, example.learn_from] for example in examples])
        if asked not in part:
            self.progress.say(f"Likelihood of the reference answers, {called(system.name)}")
            part.keep(asked, system.likelihoods(examples))
        sizes = [scored.learnt_bytes(system.prompt, example, test.reference) for test, example in told]
        return [(nll, tokens) for nll, tokens in part[asked]], sizes


def called(name: str) -> str:
    """What a system is called in a line of progress."""
    return f"{name} model" if name in OWN else name


def question_of(dialogue: Dialogue) -> Question:
    """What a dialogue asks; of a plain text, whose question is empty, its opening."""
    if dialogue.question:
        return Question(dialogue.row, dialogue.question, dialogue.answer, dialogue.before)
    words = dialogue.answer.split()
    opening = max(1, int(OPENING * len(words)))
    return Question(dialogue.row, " ".join(words[:opening]), " ".join(words[opening:]))


def off_topic() -> list[Question]:
    """Ten questions that have nothing to do with health."""
    asked = built_in("off-topic")[:OFF_TOPIC]
    return [Question(number, probe.question, "") for number, probe in enumerate(asked, start=1)]


def _spent(part: Part, task: str) -> float:
    """Seconds that were spent, in every try, on the answers of a part to one set of questions."""
    return max((float(own["spent"]) for own in part.known.values() if own["task"] == task), default=0.0)
