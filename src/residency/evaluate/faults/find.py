"""The faults of a run's answers: counted by category and kind of question, with examples, causes and remedies.

Reads `evaluation/answers.jsonl` and the prepared data; no model is needed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from residency import languages
from residency.endpoint import Endpoint
from residency.errors import UserError, listed, nearest
from residency.evaluate.faults import copied, judge
from residency.evaluate.faults.cases import Case, Known, Weights, words
from residency.evaluate.faults.causes import Evidence, spread
from residency.evaluate.faults.kinds import kind_of
from residency.evaluate.faults.rules import CATEGORIES, Category, found
from residency.evaluate.scores.values import stock_sentences
from residency.progress import Progress, Silent
from residency.prompts import QUESTION_ANSWER
from residency.workspace import Dialogue, Run, systems_in

ANSWERS = "evaluation/answers.jsonl"
MARK = 6  # characters of a template's line that is looked for in answers, at least
PEOPLE = "reference"  # the name under which people's own answers go through the same rules


@dataclass(frozen=True)
class Asked:
    """A test question: its row, what kind it is, what a person answered, and each system's answer as a case."""

    row: int
    question: str
    reference: str
    cases: dict[str, Case]

    @property
    def kind(self) -> str:
        """What the question asks for."""
        return kind_of(self.question)


@dataclass(frozen=True)
class Found:
    """What each question's answers have: by system and category the reasons, or None where it can't be told.

    `unparsable` counts a judge's replies, by system, that were not what it was asked for.
    """

    asked: list[Asked]
    systems: tuple[str, ...]
    reasons: dict[str, dict[str, list[list[str] | None]]]
    judge: str = ""
    unparsable: dict[str, int] | None = None

    def marks(self, system: str, category: str) -> list[float]:
        """1 for each question [questions] whose answer has the fault, 0 where it is in order, NaN where not checked."""
        own = self.reasons[system][category]
        return [math.nan if reasons is None else float(bool(reasons)) for reasons in own]

    def of(self, system: str, place: int) -> list[str]:
        """The categories of one answer."""
        return [name for name in CATEGORIES if self.reasons[system][name][place]]


def read(run: Run, boilerplate: Sequence[str] = ()) -> list[Asked]:
    """Each question of the evaluation with its answers; `boilerplate` are stock sentences beside the data's own.

    Raises:
        UserError: the run was not evaluated, or its answers are damaged.
    """
    rows = run.read_jsonl(ANSWERS, "evaluate")
    training = run.dialogues("train")
    known = known_of(run, training, boilerplate)
    systems = systems_of(rows)
    try:
        given = [systems_in(row) for row in rows]
        own = {
            name: [(a[name]["text"], row["reference"]) for a, row in zip(given, rows, strict=True)] for name in systems
        }
        copies = {name: copied.copies(own[name], ((d.row, d.answer) for d in training)) for name in systems}
        return [
            Asked(
                row["row"],
                row["question"],
                row["reference"],
                {
                    name: Case(
                        row["question"],
                        given[place][name]["text"],
                        row["reference"],
                        given[place][name]["stopped"],
                        copies[name][place].share,
                        known,
                    )
                    for name in systems
                },
            )
            for place, row in enumerate(rows)
        ]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{run.folder / ANSWERS}: damaged ({error})", fix="`residency evaluate` makes it anew"
        ) from None


def systems_of(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The systems that answered: base first, tuned next, then any other.

    Raises:
        UserError: there is no answer.
    """
    names = tuple(systems_in(rows[0])) if rows else ()
    if not names:
        raise UserError(f"{ANSWERS}: no answers", "a run that `residency evaluate` has been through")
    return names


def known_of(run: Run, training: Sequence[Dialogue], boilerplate: Sequence[str] = ()) -> Known:
    """What the rules need to know of a run beside an answer."""
    some = spread(training)
    counts = [len(words(row.answer)) for row in some] or [0]
    return Known(
        boilerplate=tuple(dict.fromkeys([*stock_sentences(run), *boilerplate])),
        marks=_marks(str(run.read_json("data/report.json", "prepare")["template"])),
        language=languages.language_of([row.answer for row in spread(training, 200)]),
        shortest=float(np.percentile(counts, 5)),
        longest=float(np.percentile(counts, 95)),
        weights=Weights.of(f"{row.question} {row.answer}" for row in some),
    )


def find(
    asked: list[Asked], endpoint: Endpoint | None = None, judged: Path | None = None, progress: Progress | None = None
) -> Found:
    """Every rule on every answer, on people's own too; and a judge's verdicts, where there is one, added to them."""
    systems = tuple(asked[0].cases)
    reasons = {name: _ruled([one.cases[name] for one in asked]) for name in systems}
    reasons[PEOPLE] = _of_people(asked)
    if endpoint is None or judged is None:
        return Found(asked, systems, reasons)
    asking = judge.Judge(endpoint, judged)
    unparsable = {}
    for name in systems:
        verdicts = _verdicts(asking, asked, name, progress or Silent())
        unparsable[name] = sum(verdict is None for verdict in verdicts)
        reasons[name] = _added(reasons[name], verdicts)
    return Found(asked, systems, reasons, f"{endpoint.address}#{endpoint.model}", unparsable)


def chosen(only: str | None) -> list[Category]:
    """The categories to show: all, or the one that is asked for.

    Raises:
        UserError: there is none of this name.
    """
    if only is None:
        return list(CATEGORIES.values())
    name = only.lower().replace("-", " ")
    if name not in CATEGORIES:
        raise UserError(f"--only {only}: no such category", f"one of {listed(CATEGORIES)}", nearest(name, CATEGORIES))
    return [CATEGORIES[name]]


def _ruled(cases: list[Case]) -> dict[str, list[list[str] | None]]:
    return {
        name: [found(category, case) if category.rules else None for case in cases]
        for name, category in CATEGORIES.items()
    }


def _of_people(asked: list[Asked]) -> dict[str, list[list[str] | None]]:
    """The rules on the references, as if a model had said them: what is found is their own noise, or the data's."""
    known = next(iter(asked[0].cases.values())).known
    cases = [Case(one.question, one.reference, known=known) for one in asked]
    ruled = _ruled(cases)
    return {name: own if CATEGORIES[name].of_people else [None] * len(own) for name, own in ruled.items()}


def _verdicts(asking: judge.Judge, asked: list[Asked], system: str, progress: Progress) -> list[judge.Verdict | None]:
    prompts = [judge.prompt(one.question, one.reference, one.cases[system].text) for one in asked]
    return asking.verdicts(prompts, lambda done, total: progress.step(f"Judging {system}", done, total, "answers"))


def _added(
    reasons: dict[str, list[list[str] | None]], verdicts: list[judge.Verdict | None]
) -> dict[str, list[list[str] | None]]:
    """The rules' reasons and the judge's; a category that the judge alone can see stays unchecked without its reply."""
    return {
        name: [_both(CATEGORIES[name], own, verdict) for own, verdict in zip(all_of, verdicts, strict=True)]
        for name, all_of in reasons.items()
    }


def _both(category: Category, own: list[str] | None, verdict: judge.Verdict | None) -> list[str] | None:
    if not category.judged or verdict is None:
        return own
    return [*(own or []), *([f"judge: {verdict.why}"] if category.judged in verdict.flags else [])]


def _marks(template: str) -> tuple[str, ...]:
    """The lines of a template that no answer should hold; a chat template's tokens are known anyway."""
    text = QUESTION_ANSWER if template == "question-answer" else template
    lines = text.replace("{question}", "\n").replace("{answer}", "\n").split("\n")
    return tuple(dict.fromkeys(line.strip() for line in lines if len(line.strip()) >= MARK))


def counted(kinds: Sequence[str]) -> dict[str, int]:
    """How many questions there are of each kind, the commonest first."""
    return dict(Counter(kinds).most_common())


def with_sentences(evidence: Evidence, faulty: Found, system: str, training: Sequence[Dialogue]) -> Evidence:
    """The evidence with the stock sentences that a system's answers have, and how the training answers hold them."""
    texts = [one.cases[system].text for one in faulty.asked]
    known = faulty.asked[0].cases[system].known
    used = [sentence for sentence in known.boilerplate if any(sentence in text for text in texts)]
    answers = [row.answer.rstrip() for row in spread(training)]
    items = []
    for sentence in used:
        holding = [answer for answer in answers if sentence in answer]
        ends = sum(answer.endswith(sentence) for answer in holding) / max(len(holding), 1)
        items.append({"text": sentence, "share": len(holding) / max(len(answers), 1), "ends": ends})
    return replace(evidence, sentences=tuple(items))
