"""How much of an answer stands word for word in one training answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from residency.evaluate.faults.cases import words

RUN = 8  # words running that are hardly the same by chance
COMMON = 3  # training answers that share a run from which it is boilerplate, and nobody's own


@dataclass(frozen=True)
class Copy:
    """The share of an answer's runs that one training row has, and that row; 0 and None where none has any."""

    share: float = 0.0
    row: int | None = None


def copies(answers: Sequence[tuple[str, str]], training: Iterable[tuple[int, str]]) -> list[Copy]:
    """For each (answer, reference) the training (row, answer) that has most of its runs of eight words.

    Runs of the reference are nobody's copy, nor are runs of three training answers or more. The training answers go
    by once, so that only the answers' own runs are held in memory.
    """
    runs = [_runs(answer) for answer, _ in answers]
    own = [set(of) - set(_runs(reference)) for of, (_, reference) in zip(runs, answers, strict=True)]
    wanted = set().union(*own) if own else set()
    rows_with: dict[tuple[str, ...], list[int]] = {}
    for row, text in training:
        for run in wanted.intersection(_runs(text)) if wanted else ():
            rows_with.setdefault(run, []).append(row)
    rare = {run: rows for run, rows in rows_with.items() if len(rows) < COMMON}
    return [_most(of, rare, among) for of, among in zip(runs, own, strict=True)]


def _most(runs: list[tuple[str, ...]], rare: dict[tuple[str, ...], list[int]], among: set[tuple[str, ...]]) -> Copy:
    counts = Counter(row for run in runs if run in among for row in rare.get(run, ()))
    if not counts:
        return Copy()
    row, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return Copy(count / len(runs), row)


def _runs(text: str) -> list[tuple[str, ...]]:
    own = words(text)
    return [tuple(own[place : place + RUN]) for place in range(len(own) - RUN + 1)]
