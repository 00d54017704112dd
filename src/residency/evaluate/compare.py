"""The evaluation stage: base, tuned and whoever is named answer the same held-out questions, and each difference gets
its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from residency import environment, models
from residency.evaluate import named, results
from residency.evaluate.answers.generate import CANDIDATES, GREEDY, Decoding
from residency.evaluate.exam import Exam, KeptExam, Question, called, off_topic, question_of
from residency.evaluate.partial import Partial
from residency.evaluate.scores import measure, score
from residency.evaluate.scores import values as scored
from residency.evaluate.scores.measure import Measure, Significance
from residency.evaluate.systems import Given, System
from residency.progress import Progress, Silent
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.workspace import MANIFEST, OWN, PLAIN_GREEDY, Dialogue, Dialogues, Run

if TYPE_CHECKING:
    import polars

__all__ = [
    "VALIDATION_QUESTIONS",
    "EvaluationReport",
    "Exam",
    "Question",
    "choose",
    "evaluate",
    "mildest",
    "off_topic",
    "question_of",
]

VALIDATION_QUESTIONS = 16
STALE = (MANIFEST, *(f"evaluation/{name}" for name in ("scores.json", "ratings.json", "ratings.svg")))
TOLD = ("length", "repetition")  # scores that an answer's row has under other names: tokens, loop
TOKEN_BOUND = {"answer_nll", "perplexity", "length"}  # scores that count tokens: not to be compared across tokenizers
REPEATED_MORE = 0.05  # an answer may repeat this share of its four-word runs more than people's answers do


@dataclass(frozen=True)
class Choice:
    """The decoding that did best on validation questions, and what each candidate did there."""

    decoding: Decoding
    candidates: list[dict[str, Any]]


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of each system, their intervals, and the paired differences tuned minus base.

    `others` has for each further system the differences `minus_base`, it minus base, and `tuned_minus`.
    `about` says what each system is, and what has to be said beside its numbers; `speeds` how fast it answered.
    """

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
    off_topic: list[dict[str, Any]]
    others: dict[str, dict[str, dict[str, score.Interval]]] = field(default_factory=dict)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    speeds: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: InitVar[Sequence[Mapping[str, Any]]] = ()

    def __post_init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        object.__setattr__(self, "_rows", rows)

    def frame(self) -> polars.DataFrame:
        """A row for each answer of each system: question, reference, text, tokens, times, why it ended, its scores."""
        return results.frame(self._rows)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Performance:
    """Everything one system did: likelihoods, and answers under plain greedy and under the chosen decoding.

    Plain greedy is asked of base and tuned alone, likelihoods of models on this machine. `same_tokens` says that what
    is counted in tokens can be compared with base and tuned.
    """

    likelihoods: list[tuple[float, int]]
    sizes: list[int]  # bytes of the reference answers that the likelihoods are of
    chosen: list[Given]
    greedy: list[Given]
    off_topic: list[Given]
    tokens_per_second: float
    about: dict[str, Any]
    same_tokens: bool = True


def evaluate(
    recipe: Recipe,
    run: Run,
    prompt: Prompt,
    progress: Progress | None = None,
    *,
    against: Sequence[str] = (),
    key_env: str = named.KEY_ENV,
) -> EvaluationReport:
    """Base, tuned and what is named in `against`, on the held-out test split; leaves `evaluation/`.

    Named may be runs, checkpoints, models, GGUF files and endpoints, whose key the environment holds under `key_env`.
    Answers are kept as they come, so that an evaluation that was stopped goes on where it was.

    Raises:
        UserError: the run was not prepared or not trained, or what is named is not there.
    """
    environment.keep_freed_memory()
    environment.give_back_memory()  # of the stages before
    progress = progress or Silent()
    dialogues = run.dialogues("test")[: recipe.evaluate.questions]
    tests = [question_of(dialogue) for dialogue in dialogues]
    exam = KeptExam(
        recipe=recipe,
        prompt=prompt,
        tests=tests,
        facts=scored.Facts.of(run, tests),
        progress=progress,
        partial=Partial(run),
    )
    base, tuned = named.own(recipe, run, prompt, progress)
    others = named.others(against, recipe, prompt, progress, key_env)
    choice = choose(tuned, exam, [question_of(d) for d in run.dialogues("validation")][:VALIDATION_QUESTIONS])
    performances = {}
    for system in (tuned, base, *others):
        _note_learnt(system, dialogues, exam.progress)
        performances[system.name] = _perform(system, exam, choice.decoding)
        system.close()
    performances = {name: performances[name] for name in (*OWN, *(system.name for system in others))}
    report = _report(exam, performances, choice)
    run.forget(*STALE)  # until the last file is written, there is no evaluation
    _remember(run, choice.decoding)
    _write(run, exam.tests, performances, report)
    exam.partial.done()
    return report


def _note_learnt(system: System, tests: Sequence[Dialogue], progress: Progress) -> None:
    """A further run may have learnt what it is asked here: that is said beside its numbers."""
    if system.learnt_from is None or not system.learnt_from.is_file():
        return
    learnt = {(dialogue.question, dialogue.answer) for dialogue in Dialogues(system.learnt_from)}
    count = sum((dialogue.question, dialogue.answer) in learnt for dialogue in tests)
    if count:
        system.notes.append(f"{count} of the {len(tests)} questions, with their answers, are in what it was trained on")
        progress.say(f"{system.name}: {system.notes[-1]}")


def choose(model: Any, exam: Exam, questions: list[Question]) -> Choice:
    """The mildest decoding that is enough on validation questions; `mildest` says what is enough.

    Overlap with the reference is no part of it: chrF rewards rambling, and a strong penalty makes models ramble.
    """
    if exam.recipe.evaluate.decoding == "greedy" or not questions:
        return Choice(GREEDY, [])
    rows = []
    for number, decoding in enumerate(CANDIDATES, start=1):
        task = f"Choosing the decoding, {number} of {len(CANDIDATES)}"
        given = exam.ask(model, questions, decoding, task).answers
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


def _perform(system: System, exam: KeptExam, decoding: Decoding) -> Performance:
    probes = off_topic() if exam.recipe.evaluate.off_topic else []
    task = f"Answers of {'the ' if system.name in OWN else ''}{called(system.name)}"
    given = exam.ask(system, [*exam.tests, *probes], decoding, task)
    chosen, aside = given.answers[: len(exam.tests)], given.answers[len(exam.tests) :]
    greedy = chosen if system.name in OWN else []
    if greedy and decoding != GREEDY:
        greedy = exam.ask(system, exam.tests, GREEDY, f"{task}, plain greedy").answers
    likelihoods, sizes = exam.likelihoods(system)
    notes = [*system.notes, *system.caveats(decoding), *results.notes(given.answers)]
    same_tokens = system.same_tokens(exam.prompt)
    if not same_tokens:
        notes.append("its tokens are not the run's, so that lengths and likelihoods per token are not compared")
    about = {"kind": system.kind, "source": system.source, "notes": notes}
    return Performance(likelihoods, sizes, chosen, greedy, aside, given.tokens_per_second, about, same_tokens)


def _measured(exam: Exam, performance: Performance, values: dict[str, list[float]]) -> dict[str, Measure]:
    """Every number of a system, of `values` of its answers under the chosen decoding and of what else it did."""
    found = scored.measures(values, performance.chosen, exam.tests, exam.facts)
    if performance.likelihoods:
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
        if name in OWN
    }

    def between(one: str, other: str) -> dict[str, score.Interval]:
        same = performances[one].same_tokens and performances[other].same_tokens
        found = measure.differences(measured[one], measured[other], resamples)
        return {metric: change for metric, change in found.items() if same or metric not in TOKEN_BOUND}

    further = [name for name in performances if name not in OWN]
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
        differences=between("tuned", "base"),
        significance=measure.significance(measured["tuned"], measured["base"]),
        signatures=scored.signatures(exam.facts.similarity),
        greedy={name: {metric: float(np.mean(own)) for metric, own in plain[name].items()} for name in plain},
        faults={name: _faults(own) for name, own in values.items()},
        off_topic=_probes(performances),
        others={name: {"minus_base": between(name, "base"), "tuned_minus": between("tuned", name)} for name in further},
        about={name: performance.about for name, performance in performances.items()},
        speeds={name: results.speed(p.chosen, p.tokens_per_second) for name, p in performances.items()},
        rows=_long(exam.tests, performances, values, choice.decoding),
    )


def _faults(values: dict[str, list[float]]) -> dict[str, int]:
    return {
        "loop": int(sum(values["repetition"])),
        "ran to the limit": int(sum(1 - stopped for stopped in values["stopped"])),
        "empty": int(sum(values["empty"])),
        "boilerplate": int(sum(values["boilerplate"])),
    }


def _probes(performances: dict[str, Performance]) -> list[dict[str, Any]]:
    found = []
    for place, probe in enumerate(off_topic() if performances["base"].off_topic else []):
        said = {name: performance.off_topic[place].text for name, performance in performances.items()}
        found.append({"question": probe.question, **_apart(said)})
    return found


def _apart(each: dict[str, Any]) -> dict[str, Any]:
    """What is said of each system: base and tuned by their names, all further ones under `others`, where there are."""
    others = {name: value for name, value in each.items() if name not in OWN}
    return {name: each[name] for name in OWN} | ({"others": others} if others else {})


def _write(run: Run, tests: list[Question], performances: dict[str, Performance], report: EvaluationReport) -> None:
    rows = []
    for place, test in enumerate(tests):
        each = {name: _row(performance, place) for name, performance in performances.items()}
        greedy = {f"{name}{PLAIN_GREEDY}": results.entry(performances[name].greedy[place]) for name in OWN}
        rows.append(asdict(test) | _apart(each) | greedy)
    scores = asdict(report)
    results.write(run, rows, report.frame(), scores)
    run.write_json("evaluation/errors.json", report.faults)
    run.write_json("evaluation/scores.json", scores)  # last: where it is, all of them are


def _row(performance: Performance, place: int) -> dict[str, Any]:
    nll, tokens = performance.likelihoods[place] if performance.likelihoods else (None, 0)
    return results.entry(performance.chosen[place]) | {"answer_nll": None if nll is None else nll / max(tokens, 1)}


def _long(
    tests: list[Question],
    performances: dict[str, Performance],
    values: dict[str, dict[str, list[float]]],
    decoding: Decoding,
) -> list[dict[str, Any]]:
    """A row for each answer, those under plain greedy last: what was asked, what came, and what it is worth."""
    rows = []
    for name, performance in performances.items():
        for place, test in enumerate(tests):
            asked = {"row": test.row, "question": test.question, "reference": test.reference, "system": name}
            own = {"decoding": decoding.name, **_row(performance, place)}
            worth = {metric: each[place] for metric, each in values[name].items() if metric not in (*own, *TOLD)}
            rows.append(asked | own | worth)
    if decoding != GREEDY:
        for name in OWN:
            for test, given in zip(tests, performances[name].greedy, strict=True):
                asked = {"row": test.row, "question": test.question, "reference": test.reference, "system": name}
                rows.append(asked | {"decoding": GREEDY.name} | results.entry(given))
    return rows
