"""Pairs of answers in an order that is drawn: which system gave which stays here until the vote is cast."""

from __future__ import annotations

import random
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from residency import ranking
from residency.errors import UserError
from residency.ranking import Answered, Asked, Vote
from residency.ranking.systems import ANSWERS
from residency.workspace import VOTES, Run

OPEN = 1000  # pairs that are shown and not voted on yet; older ones are forgotten


class NotOpen(UserError):
    """The pair that a vote is on is not to be voted on, or no longer."""


@dataclass(frozen=True)
class Pair:
    """Two systems' answers to one question, in the order in which they are shown."""

    asked: Asked
    a: str
    b: str

    def row(self, vote: str, why: str, voter: str) -> dict[str, Any]:
        """The pair with its vote, as `residency rank` reads it and preferences are learnt from it."""
        answers = (self.asked.answers[self.a], self.asked.answers[self.b])
        found = ranking.row_of(self.asked.question, (self.a, self.b), answers, vote, voter) | {"why": why}
        before = {"system": self.asked.system, "history": [list(turn) for turn in self.asked.history]}
        return found | ({"before": before} if any(before.values()) else {})


@dataclass(frozen=True)
class Progress:
    """How many of the pairs to vote on a voter has voted on; `same` have the same answer twice, and are not shown."""

    done: int
    of: int
    same: int = 0


@dataclass(frozen=True)
class _Sheet:
    """The evaluation's answers: the pairs to vote on, and how many have the same answer twice."""

    given: Answered
    pairs: list[Pair]
    same: int


class Ballots:
    """The pairs that are open to votes, and the file that the votes go to."""

    def __init__(self, run: Run, rng: random.Random | None = None) -> None:
        self._run, self._rng = run, rng or random.SystemRandom()
        self._open: OrderedDict[str, Pair] = OrderedDict()
        self._lock = threading.Lock()
        self._sheet: tuple[object, _Sheet] | None = None
        self._votes: tuple[object, list[Vote]] | None = None

    def held_out(self, voter: str) -> tuple[str, Pair, Progress]:
        """A pair of a held-out question under a new id, of those that the voter, and then others, voted on least.

        Raises:
            UserError: the run was not evaluated, or no two systems answered differently; or its votes are damaged.
        """
        with self._lock:
            sheet = self._answers()
            votes = self._cast(sheet.given)
            by_voter = Counter(_key(vote.question, vote.a, vote.b) for vote in votes if vote.voter == voter)
            by_all = Counter(_key(vote.question, vote.a, vote.b) for vote in votes)
            keys = [_key(pair.asked.question, pair.a, pair.b) for pair in sheet.pairs]
            least = min((by_voter[key], by_all[key]) for key in keys)
            pair = self._rng.choice(
                [pair for pair, key in zip(sheet.pairs, keys, strict=True) if (by_voter[key], by_all[key]) == least]
            )
            done = sum(by_voter[key] > 0 for key in keys)
            return *self._show(pair), Progress(done, len(keys), sheet.same)

    def own(self, question: str, answers: Mapping[str, str]) -> tuple[str, Pair]:
        """A visitor's question with two systems' answers, under a new id."""
        one, other = answers
        with self._lock:
            return self._show(Pair(Asked(question, "", dict(answers)), one, other))

    def vote(self, number: str, choice: str, why: str = "", voter: str = "") -> Pair:
        """Keep a vote, one of `ranking.CHOICES`, on the disk; the pair tells which system gave which answer.

        Raises:
            NotOpen: the pair was voted on, or is not known any more.
            UserError: the vote can't be written; the pair stays open.
        """
        with self._lock:
            pair = self._open.get(number)
            if pair is None:
                raise NotOpen("this pair is not open to votes any more", fix="go on with another one")
            try:
                ranking.append(self._run.path(VOTES), pair.row(choice, why, voter))
            except OSError as error:
                raise UserError(f"the vote can't be kept in {self._run.folder / VOTES}: {error.strerror}") from None
            del self._open[number]
            return pair

    def _show(self, pair: Pair) -> tuple[str, Pair]:
        if self._rng.random() < 0.5:
            pair = Pair(pair.asked, pair.b, pair.a)
        number = secrets.token_urlsafe(16)
        self._open[number] = pair
        while len(self._open) > OPEN:
            self._open.popitem(last=False)
        return number, pair

    def _answers(self) -> _Sheet:
        stamp = _stamp(self._run.folder / ANSWERS)
        if self._sheet is None or self._sheet[0] != stamp:
            self._sheet = (stamp, _sheet(self._run))
        return self._sheet[1]

    def _cast(self, given: Answered) -> list[Vote]:
        stamp = (_stamp(self._run.folder / VOTES), id(given))
        if self._votes is None or self._votes[0] != stamp:
            self._votes = (stamp, ranking.own_votes([self._run], given).votes)
        return self._votes[1]


def _sheet(run: Run) -> _Sheet:
    given = ranking.answered([run])
    every = [Pair(asked, a, b) for asked in given.asked for a, b in combinations(given.systems, 2)]
    differ = [pair for pair in every if pair.asked.answers[pair.a] != pair.asked.answers[pair.b]]
    if not differ:
        raise UserError(f"{run.folder / ANSWERS}: no two systems' answers differ", "a question with two answers")
    return _Sheet(given, differ, len(every) - len(differ))


def _key(question: str, a: str, b: str) -> tuple[str, frozenset[str]]:
    return question, frozenset((a, b))


def _stamp(file: Path) -> tuple[int, int] | None:
    """What changes when a file does; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
