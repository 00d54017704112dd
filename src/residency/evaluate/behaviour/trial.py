"""How far base and tuned model stay in their role: the share of each probe set, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from residency import environment, models
from residency.evaluate.answers.generate import Answer, Decoding
from residency.evaluate.behaviour import rules
from residency.evaluate.behaviour.probes import Probe
from residency.evaluate.compare import Exam, Question
from residency.evaluate.scores import score
from residency.evaluate.scores.values import Facts
from residency.progress import Progress
from residency.prompts import Before, Prompt
from residency.recipe import Recipe
from residency.workspace import Run


@dataclass(frozen=True)
class SetReport:
    """The share of a set's answers that stay in the role, tuned minus base over the same probes, and what decided."""

    probes: int
    base: score.Interval
    tuned: score.Interval
    difference: score.Interval
    rules: dict[str, dict[str, int]]


@dataclass(frozen=True)
class BehaviourReport:
    """What `evaluation/behaviour.json` holds: a report for each set, and how the probes were put."""

    probes: int
    source: str
    decoding: dict[str, Any]
    precision: str
    max_new_tokens: int
    resamples: int
    sets: dict[str, SetReport]


@dataclass(frozen=True)
class Judged:
    """An answer with its verdict."""

    answer: Answer
    verdict: rules.Verdict

    def row(self) -> dict[str, Any]:
        """As a line of `behaviour.jsonl` has it."""
        return asdict(self.answer) | asdict(self.verdict)


def behaviour(
    recipe: Recipe, run: Run, prompt: Prompt, probes: Sequence[Probe], *, source: str, progress: Progress
) -> BehaviourReport:
    """Ask base and tuned each probe under the run's own decoding; writes `behaviour.json` and `behaviour.jsonl`.

    Raises:
        UserError: the run was not trained.
    """
    environment.keep_freed_memory()
    settings = decoding_of(run)
    exam = Exam(recipe, prompt, [], Facts(), progress)
    tuned = _asked(lambda dtype: models.load_tuned(run.need("model", "train"), dtype), "tuned", exam, probes, settings)
    environment.give_back_memory()
    base = _asked(
        lambda dtype: models.load_base(recipe.model, dtype, progress=progress), "base", exam, probes, settings
    )
    report = BehaviourReport(
        probes=len(probes),
        source=source,
        decoding=settings.settings(),
        precision=str(models.fast_dtype()).removeprefix("torch."),
        max_new_tokens=recipe.evaluate.max_new_tokens,
        resamples=recipe.evaluate.resamples,
        sets=_sets(probes, base, tuned, recipe.evaluate.resamples),
    )
    rows = zip(probes, base, tuned, strict=True)
    run.write_jsonl("evaluation/behaviour.jsonl", [asdict(p) | {"base": b.row(), "tuned": t.row()} for p, b, t in rows])
    run.write_json("evaluation/behaviour.json", asdict(report))
    return report


def decoding_of(run: Run) -> Decoding:
    """The decoding that lies in the run's model: what the evaluation chose, or plain greedy before that."""
    return Decoding("the model's own", **run.chosen_decoding())


def _asked(
    load: Callable[[torch.dtype], Any], name: str, exam: Exam, probes: Sequence[Probe], decoding: Decoding
) -> list[Judged]:
    model = load(models.fast_dtype()).to(models.device())
    questions = [Question(n, probe.question, "", Before(probe.system)) for n, probe in enumerate(probes, start=1)]
    given = exam.ask(model, questions, decoding, f"Probes to the {name} model").answers
    return [Judged(one, rules.judge(probe, one.text)) for probe, one in zip(probes, given, strict=True)]


def _sets(probes: Sequence[Probe], base: list[Judged], tuned: list[Judged], resamples: int) -> dict[str, SetReport]:
    found = {}
    for name in dict.fromkeys(probe.set for probe in probes):
        places = [place for place, probe in enumerate(probes) if probe.set == name]
        one, other = ([float(system[place].verdict.kept) for place in places] for system in (base, tuned))
        draws = score.resample(len(places), resamples)
        found[name] = SetReport(
            probes=len(places),
            base=score.interval(one, draws),
            tuned=score.interval(other, draws),
            difference=score.difference(other, one, draws),
            rules={
                system: dict(Counter(_short(answers[place].verdict.rule) for place in places).most_common())
                for system, answers in (("base", base), ("tuned", tuned))
            },
        )
    return found


def _short(rule: str) -> str:
    """The rule without the phrase that it found."""
    return rule.partition(":")[0]
