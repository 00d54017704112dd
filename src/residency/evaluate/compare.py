"""The evaluation stage: base and tuned answer the same held-out questions, and each difference gets its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from residency import environment, models
from residency.evaluate import measure, score
from residency.evaluate import values as scored
from residency.evaluate.generate import CANDIDATES, GREEDY, Answer, Answers, Decoding, answer, likelihoods
from residency.evaluate.measure import Measure, Significance
from residency.evaluate.probes import built_in
from residency.progress import Progress, Silent
from residency.prompts import NOTHING, Before, Prompt
from residency.recipe import Recipe
from residency.workspace import Dialogue, Run

OPENING = 0.25  # share of a plain text that is given, where there is no question
VALIDATION_QUESTIONS = 16
OFF_TOPIC = 10  # questions of the probe set off-topic
REPEATED_MORE = 0.05  # an answer may repeat this share of its four-word runs more than people's answers do


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

    def ask(self, model: Any, questions: list[Question], decoding: Decoding, task: str) -> Answers:
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
        )


@dataclass(frozen=True)
class Choice:
    """The decoding that did best on validation questions, and what each candidate did there."""

    decoding: Decoding
    candidates: list[dict[str, Any]]


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of each system, their intervals, and the paired differences tuned minus base."""

    questions: int
    precision: str
    decoding: dict[str, Any]
    candidates: list[dict[str, Any]]
    systems: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, score.Interval]]
    differences: dict[str, score.Interval]
    significance: dict[str, Significance]
    signatures: dict[str, str]
    greedy: dict[str, dict[str, float]]
    faults: dict[str, dict[str, int]]
    off_topic: list[dict[str, str]]


@dataclass(frozen=True)
class Performance:
    """Everything one system did: likelihoods, and answers under plain greedy and under the chosen decoding."""

    likelihoods: list[tuple[float, int]]
    sizes: list[int]  # bytes of the reference answers that the likelihoods are of
    chosen: list[Answer]
    greedy: list[Answer]
    off_topic: list[Answer]
    tokens_per_second: float


def evaluate(recipe: Recipe, run: Run, prompt: Prompt, progress: Progress | None = None) -> EvaluationReport:
    """Base against tuned on the held-out test split; writes `answers.jsonl`, `scores.json`, `errors.json`.

    Raises:
        UserError: the run was not prepared or not trained.
    """
    environment.keep_freed_memory()
    environment.give_back_memory()  # of the stages before
    tests = [question_of(d) for d in run.dialogues("test")][: recipe.evaluate.questions]
    exam = Exam(
        recipe=recipe,
        prompt=prompt,
        tests=tests,
        facts=scored.Facts.of(run, tests),
        progress=progress or Silent(),
    )
    tuned = _load(lambda dtype: models.load_tuned(run.need("model", "train"), dtype))
    choice = choose(tuned, exam, [question_of(d) for d in run.dialogues("validation")][:VALIDATION_QUESTIONS])
    _remember(run, choice.decoding)
    performances = {"tuned": _perform(tuned, "tuned", exam, choice.decoding)}
    del tuned
    environment.give_back_memory()
    base = _load(lambda dtype: models.load_base(recipe.model, dtype, progress=exam.progress))
    performances = {"base": _perform(base, "base", exam, choice.decoding), **performances}
    report = _report(exam, performances, choice)
    _write(run, exam.tests, performances, report)
    return report


def question_of(dialogue: Dialogue) -> Question:
    """What a dialogue asks; of a plain text, whose question is empty, its opening."""
    if dialogue.question:
        return Question(dialogue.row, dialogue.question, dialogue.answer, dialogue.before)
    words = dialogue.answer.split()
    opening = max(1, int(OPENING * len(words)))
    return Question(dialogue.row, " ".join(words[:opening]), " ".join(words[opening:]))


def _load(load: Callable[[torch.dtype], Any]) -> Any:
    """The model as this machine answers fastest: bf16 where the processor has it, on a GPU where there is one."""
    model = load(models.fast_dtype())
    return model.to(models.device())


def choose(model: Any, exam: Exam, questions: list[Question]) -> Choice:
    """The mildest decoding that is enough on validation questions; `mildest` says what is enough.

    Overlap with the reference is no part of it: chrF rewards rambling, and a strong penalty makes models ramble.
    """
    if exam.recipe.evaluate.decoding == "greedy" or not questions:
        return Choice(GREEDY, [])
    rows = []
    for number, decoding in enumerate(CANDIDATES, start=1):
        given = exam.ask(model, questions, decoding, f"Choosing the decoding, {number} of {len(CANDIDATES)}").answers
        chrf = [score.overlap(a.text, q.reference)["chrf"] for a, q in zip(given, questions, strict=True)]
        rows.append(
            {
                "stopped": float(np.mean([a.stopped for a in given])),
                "repetition": float(np.mean([score.loops(a.text) for a in given])),
                "repeated": float(np.mean([score.repeated(a.text) for a in given])),
                "chrf": float(np.mean(chrf)),
            }
        )
    people = float(np.mean([score.repeated(question.reference) for question in questions]))
    best = mildest(rows, 1 / len(questions), people + REPEATED_MORE)
    exam.progress.say(f"Decoding chosen on {len(questions)} validation questions: {CANDIDATES[best].name}")
    return Choice(
        CANDIDATES[best],
        [
            {"name": decoding.name, "settings": decoding.settings(), **row, "chosen": place == best}
            for place, (decoding, row) in enumerate(zip(CANDIDATES, rows, strict=True))
        ],
    )


def mildest(rows: list[dict[str, float]], tolerance: float, most_repeated: float) -> int:
    """The place of the first row that is as good as any: its answers stop and don't loop, and repeat little.

    As good as any: the share that stops less the share that loops is within `tolerance` of the best. Among those the
    first that repeats at most `most_repeated`, or else the one that repeats least.
    """
    good = [row["stopped"] - row["repetition"] for row in rows]
    finalists = [place for place, value in enumerate(good) if value >= max(good) - 1.001 * tolerance]
    little = [place for place in finalists if rows[place]["repeated"] <= most_repeated]
    return little[0] if little else min(finalists, key=lambda place: rows[place]["repeated"])


def _remember(run: Run, decoding: Decoding) -> None:
    """The chosen decoding becomes the model's own `generation_config.json`."""
    config = run.read_json("model/generation_config.json", "train")
    for name in ("repetition_penalty", "no_repeat_ngram_size"):
        config.pop(name, None)
    run.write_json("model/generation_config.json", {**config, "do_sample": False, **decoding.settings()})


def _perform(model: Any, name: str, exam: Exam, decoding: Decoding) -> Performance:
    limit = exam.recipe.model.max_length
    examples = [exam.prompt.answer_example(t.question, t.reference, limit, t.before) for t in exam.tests]
    probes = off_topic() if exam.recipe.evaluate.off_topic else []
    given = exam.ask(model, [*exam.tests, *probes], decoding, f"Answers of the {name} model")
    chosen, aside = given.answers[: len(exam.tests)], given.answers[len(exam.tests) :]
    greedy = chosen
    if decoding != GREEDY:
        greedy = exam.ask(model, exam.tests, GREEDY, f"Answers of the {name} model, plain greedy").answers
    exam.progress.say(f"Likelihood of the reference answers, {name} model")
    sizes = [
        scored.learnt_bytes(exam.prompt, example, test.reference)
        for example, test in zip(examples, exam.tests, strict=True)
    ]
    return Performance(likelihoods(model, examples), sizes, chosen, greedy, aside, given.tokens_per_second)


def off_topic() -> list[Question]:
    """Ten questions that have nothing to do with health."""
    asked = built_in("off-topic")[:OFF_TOPIC]
    return [Question(number, probe.question, "") for number, probe in enumerate(asked, start=1)]


def _measured(exam: Exam, performance: Performance, values: dict[str, list[float]]) -> dict[str, Measure]:
    """Every number of a system, of `values` of its answers under the chosen decoding and of what else it did."""
    found = scored.measures(values, performance.chosen, exam.tests, exam.facts)
    found |= scored.likelihood_measures(performance.likelihoods, performance.sizes)
    if performance.off_topic:
        found["off_topic_kept"] = measure.mean([float(score.steered_back(a.text)) for a in performance.off_topic])
    return found


def _report(exam: Exam, performances: dict[str, Performance], choice: Choice) -> EvaluationReport:
    resamples = exam.recipe.evaluate.resamples
    exam.progress.say("Scoring the answers")
    values = {name: scored.values(p.chosen, exam.tests, exam.facts) for name, p in performances.items()}
    measured = {name: _measured(exam, p, values[name]) for name, p in performances.items()}
    intervals = {name: measure.intervals(own, resamples) for name, own in measured.items()}
    plain = {
        name: values[name] if p.greedy is p.chosen else scored.values(p.greedy, exam.tests, exam.facts)
        for name, p in performances.items()
    }
    return EvaluationReport(
        questions=len(exam.tests),
        precision=str(models.fast_dtype()).removeprefix("torch."),
        decoding={"name": choice.decoding.name, **choice.decoding.settings()},
        candidates=choice.candidates,
        systems={
            name: {metric: found.mean for metric, found in intervals[name].items()}
            | {"tokens_per_second": performance.tokens_per_second}
            for name, performance in performances.items()
        },
        intervals=intervals,
        differences=measure.differences(measured["tuned"], measured["base"], resamples),
        significance=measure.significance(measured["tuned"], measured["base"]),
        signatures=scored.signatures(exam.facts.similarity),
        greedy={name: {metric: float(np.mean(own)) for metric, own in plain[name].items()} for name in plain},
        faults={name: _faults(own) for name, own in values.items()},
        off_topic=_probes(performances),
    )


def _faults(values: dict[str, list[float]]) -> dict[str, int]:
    return {
        "loop": int(sum(values["repetition"])),
        "ran to the limit": int(sum(1 - stopped for stopped in values["stopped"])),
        "empty": int(sum(values["empty"])),
        "boilerplate": int(sum(values["boilerplate"])),
    }


def _probes(performances: dict[str, Performance]) -> list[dict[str, str]]:
    given = zip(*(performance.off_topic for performance in performances.values()), strict=True)
    return [
        {"question": probe.question} | {name: one.text for name, one in zip(performances, row, strict=True)}
        for probe, row in zip(off_topic(), given, strict=False)
    ]


def _write(run: Run, tests: list[Question], performances: dict[str, Performance], report: EvaluationReport) -> None:
    rows = []
    for place, test in enumerate(tests):
        row: dict[str, Any] = asdict(test)
        for name, performance in performances.items():
            nll, tokens = performance.likelihoods[place]
            row[name] = _row(performance.chosen[place]) | {"answer_nll": nll / max(tokens, 1)}
            row[f"{name}_greedy"] = _row(performance.greedy[place])
        rows.append(row)
    run.write_jsonl("evaluation/answers.jsonl", rows)
    run.write_json("evaluation/scores.json", asdict(report))
    run.write_json("evaluation/errors.json", report.faults)


def _row(given: Answer) -> dict[str, Any]:
    return asdict(given) | {"loop": score.loops(given.text)}
