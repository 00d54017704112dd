"""What a way is worth and what an answer of it takes: one model asked the held-out questions as the way asks them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Any

from residency.evaluate.answers.generate import Decoding, likelihoods
from residency.evaluate.compare import Exam, Question, choose
from residency.evaluate.scores import score
from residency.study.build import Put

ALONE = 4  # questions that are answered one at a time, for the seconds that somebody waits
Ask = Callable[[Sequence[Question]], list[Put]]
METRICS = ("answer_nll", "rouge_l", "chrf", "stopped", "repetition")


@dataclass(frozen=True)
class Measured:
    """One way on the test questions.

    `values` has each metric's value a question, `tokens` how many reference tokens its NLL is over. Seconds are
    those of an answer, alone and in a batch; prompt and new tokens are means over the questions.
    """

    decoding: dict[str, Any]
    candidates: list[dict[str, Any]]
    values: dict[str, list[float]]
    tokens: list[int]
    texts: list[str]
    proposed: int
    taken: int
    alone_seconds: float
    batch_seconds: float
    prompt_tokens: float
    new_tokens: float


def measure(model: Any, exam: Exam, ask: Ask, validation: Sequence[Question], label: str) -> Measured:
    """Answer and score the exam's questions as the way asks them, which is what `ask` makes of them.

    The decoding is chosen on the validation questions, asked in the same way. The likelihood is of the first
    `evaluate.max_new_tokens` tokens of each reference: the same tokens in every way, and room for them in each prompt.
    """
    choice = choose(model, exam, [each.question for each in ask(validation)])
    started = time.perf_counter()
    tests = ask(exam.tests)
    asking = time.perf_counter() - started
    questions = [each.question for each in tests]
    given = exam.ask(model, questions, choice.decoding, f"Answers, {label}")
    alone = [_alone(model, exam, partial(ask, [question]), choice.decoding, label) for question in exam.tests[:ALONE]]
    prompts = [len(exam.prompt.prompt_ids(asked.question, asked.before)) for asked in questions]
    reserve = exam.recipe.evaluate.max_new_tokens
    examples = [
        exam.prompt.answer_example(asked.question, asked.reference, length + reserve, asked.before)
        for asked, length in zip(questions, prompts, strict=True)
    ]
    exam.progress.say(f"Likelihood of the reference answers, {label}")
    found = likelihoods(model, examples)
    values: dict[str, list[float]] = {"answer_nll": [nll / max(tokens, 1) for nll, tokens in found]}
    for answered, asked in zip(given.answers, questions, strict=True):
        own = score.overlap(answered.text, asked.reference)
        own |= {"stopped": float(answered.stopped), "repetition": float(score.loops(answered.text))}
        for metric in METRICS[1:]:
            values.setdefault(metric, []).append(own[metric])
    return Measured(
        decoding={"name": choice.decoding.name, **choice.decoding.settings()},
        candidates=choice.candidates,
        values=values,
        tokens=[tokens for _, tokens in found],
        texts=[answered.text for answered in given.answers],
        proposed=sum(each.proposed for each in tests),
        taken=sum(each.taken for each in tests),
        alone_seconds=fmean(alone),
        batch_seconds=(asking + given.seconds) / len(questions),
        prompt_tokens=fmean(prompts),
        new_tokens=fmean(answered.tokens for answered in given.answers),
    )


def _alone(model: Any, exam: Exam, asked: Callable[[], list[Put]], decoding: Decoding, label: str) -> float:
    """Seconds that somebody waits for an answer: what stands before the question is looked up, and it is answered."""
    started = time.perf_counter()
    exam.ask(model, [each.question for each in asked()], decoding, f"Answers one at a time, {label}")
    return time.perf_counter() - started


def compared(ways: dict[str, dict[str, Any]], resamples: int) -> dict[str, dict[str, Any]]:
    """For each way its metrics with intervals, and its paired differences to every other: `less` that one.

    Each way is what `Measured` holds, as plain values. Intervals are of 95%, by bootstrap over the questions; one draw
    serves all. The NLL is weighted by tokens, so that its mean is that of all reference tokens.
    """
    first = next(iter(ways.values()))
    draws = score.resample(len(first["tokens"]), resamples)
    weights = {"answer_nll": [float(tokens) for tokens in first["tokens"]]}
    found: dict[str, dict[str, Any]] = {}
    for name, own in ways.items():
        found[name] = {
            "quality": {
                metric: asdict(score.interval(own["values"][metric], draws, weights.get(metric))) for metric in METRICS
            },
            "less": {
                other: {
                    metric: asdict(
                        score.difference(own["values"][metric], values["values"][metric], draws, weights.get(metric))
                    )
                    for metric in METRICS
                }
                for other, values in ways.items()
                if other != name
            },
        }
    return found
