"""The systems to rank: what each of them answered to the questions that all of them were asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from residency.errors import UserError
from residency.ranking.votes import Vote
from residency.workspace import Run, systems_in

ANSWERS = "evaluation/answers.jsonl"


@dataclass(frozen=True)
class Asked:
    """A question with what stood before it, a person's answer, and each system's."""

    question: str
    reference: str
    answers: dict[str, str]
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answered:
    """What all systems answered; `left_out` counts for each run its questions that not every run was asked.

    `names` has for each name that a system may go by the one it is ranked under; `own` adds, for each run, the short
    names within it.
    """

    systems: list[str]
    asked: list[Asked]
    left_out: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    own: list[dict[str, str]] = field(default_factory=list)

    def gave(self, vote: Vote) -> bool:
        """Whether the systems gave the answers that a vote is on; where that can't be told, they did."""
        here = [asked for asked in self.asked if asked.question == vote.question] if vote.answers else []
        return not here or any((asked.answers[vote.a], asked.answers[vote.b]) == vote.answers for asked in here)


Key = tuple[str, str, int]


def answered(runs: Sequence[Run]) -> Answered:
    """The answers of some runs to the questions that they share.

    One run's systems go by their own names: base, tuned and further ones. Of several runs they are called NAME/tuned,
    after the folder, but for a system whose answers are the same in all of them, which is one: the base, as a rule.

    Raises:
        UserError: a run was not evaluated, two runs have one name, or they share no question.
    """
    labels = _labels(runs)
    sheets = [dict(_keyed(run.read_jsonl(ANSWERS, "evaluate"), run)) for run in runs]
    shared = [key for key in sheets[0] if all(key in sheet for sheet in sheets)]
    if not shared:
        what = "share no question" if len(runs) > 1 else "was asked no question"
        raise UserError(f"{' and '.join(labels)}: {what}", "runs with answers to the same questions")
    systems = [_systems(sheet, run) for sheet, run in zip(sheets, runs, strict=True)]
    own = [
        {name: name if _is_one(name, systems, sheets, shared) else f"{label}/{name}" for name in names}
        for label, names in zip(labels, systems, strict=True)
    ]
    asked = [_asked([sheet[key] for sheet in sheets], own) for key in shared]
    long = {f"{label}/{name}": to for label, names in zip(labels, own, strict=True) for name, to in names.items()}
    ranked = list(dict.fromkeys(to for names in own for to in names.values()))
    return Answered(
        ranked,
        asked,
        {label: len(sheet) - len(shared) for label, sheet in zip(labels, sheets, strict=True)},
        {**{name: name for name in ranked}, **long},
        own,
    )


def _labels(runs: Sequence[Run]) -> list[str]:
    labels = [run.folder.resolve().name for run in runs]
    twice = next((label for label, count in Counter(labels).items() if count > 1), None)
    if twice:
        raise UserError(f'rank: two run folders are called "{twice}"', "folders of different names, each once")
    return labels


def _keyed(rows: list[Any], run: Run) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Each row by its question and what stood before it; a question that comes again is another one."""
    seen: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("question"), str):
            raise UserError(f"{run.folder / ANSWERS}: damaged", fix="`residency evaluate` makes it anew")
        same = (row["question"], json.dumps(row.get("before"), sort_keys=True))
        yield (*same, seen[same]), row
        seen[same] += 1


def _systems(sheet: dict[Key, dict[str, Any]], run: Run) -> list[str]:
    rows = list(sheet.values())
    names = [name for name in systems_in(rows[0]) if all(_text(row, name) is not None for row in rows)]
    if not names:
        raise UserError(f"{run.folder / ANSWERS}: holds no system's answers", fix="`residency evaluate` makes it anew")
    return names


def _text(row: dict[str, Any], name: str) -> str | None:
    text = systems_in(row).get(name, {}).get("text")
    return text if isinstance(text, str) else None


def _is_one(name: str, systems: list[list[str]], sheets: list[dict[Key, dict[str, Any]]], shared: list[Key]) -> bool:
    """Whether a name stands for one system: of a single run, or with the same answers in every run."""
    if not all(name in names for names in systems):
        return len(sheets) == 1
    return all(len({_text(sheet[key], name) for sheet in sheets}) == 1 for key in shared)


def _asked(rows: list[dict[str, Any]], own: list[dict[str, str]]) -> Asked:
    first, before = rows[0], rows[0].get("before") or {}
    return Asked(
        first["question"],
        str(first.get("reference") or ""),
        {to: str(_text(row, name)) for row, names in zip(rows, own, strict=True) for name, to in names.items()},
        str(before.get("system") or ""),
        tuple((str(question), str(answer)) for question, answer in before.get("history") or ()),
    )
