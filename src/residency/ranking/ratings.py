"""Ratings out of votes: Bradley-Terry and Elo by evalica, with bootstrap intervals over the questions.

Both stand on the scale of Elo (1978): 400 points are odds of ten to one, and the mean of all systems is 1000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from residency.errors import UserError, listed
from residency.ranking.votes import Vote

MEAN = 1000.0
SCALE = 400 / np.log(10)  # points per unit of log-odds
K = 4.0  # points that a vote moves at most; small, as public leaderboards of models have it
ORDERS = 100  # shuffles that an Elo rating is the mean over
RESAMPLES = 1000
LEVEL = (2.5, 97.5)  # per cent: the ends of a 95% interval
TOLERANCE, LIMIT = 1e-9, 100_000  # of evalica's iteration; its own limit of 100 stops far from the end

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Spread:
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rating:
    """One system: its ratings and its votes; `rank` is one more than how many systems are shown to be better."""

    system: str
    rank: int
    rating: Spread
    elo: Spread
    votes: int
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class Meeting:
    """Two systems, the higher rated first: their votes, the share that a won, and a's rating less b's.

    A tie is half a win for each; `both_bad` of the ties are of answers that were both bad. `foreseen` is the share that
    the ratings foresee. Without votes there is no `share`.
    """

    a: str
    b: str
    wins: int
    losses: int
    ties: int
    both_bad: int
    share: Spread | None
    foreseen: float
    difference: Spread


@dataclass(frozen=True)
class Ratings:
    """The systems, best first, each pair of them, and what has to be said of the votes."""

    systems: list[Rating]
    pairs: list[Meeting]
    votes: int
    questions: int
    undecided: int
    resamples: int
    seed: int
    bounded: float
    notes: list[str]


@dataclass(frozen=True)
class _Table:
    """Votes as numbers: systems a and b [votes], winner [votes] as evalica counts it, question [votes]."""

    names: list[str]
    a: Array
    b: Array
    winner: Array
    question: Array
    both_bad: Array

    @property
    def wins(self) -> Array:
        """Wins of the one over the other, for each question [questions, systems, systems]; a tie is half of one."""
        size = len(self.names)
        found = np.zeros((self.question.max() + 1, size, size))
        for share, which in ((1.0, self.winner == 1), (0.5, self.winner == 0)):
            np.add.at(found, (self.question[which], self.a[which], self.b[which]), share)
        for share, which in ((1.0, self.winner == 2), (0.5, self.winner == 0)):
            np.add.at(found, (self.question[which], self.b[which], self.a[which]), share)
        return found


def rate(
    votes: Sequence[Vote],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Ratings:
    """The ratings of all systems that have votes; `tell` is given how many resamples are done.

    "Both bad" is a tie; a vote that decided nothing is counted and left out. Neither the order of the votes nor which
    of two systems is called a changes anything.

    Raises:
        UserError: no vote decides, or some systems were never compared with the others, not even through third ones.
    """
    _need_evalica()
    decided = sorted(
        (vote if vote.a < vote.b else _swapped(vote) for vote in votes if vote.winner),
        key=lambda vote: (vote.question, vote.a, vote.b, vote.winner, vote.voter),
    )
    if not decided:
        raise UserError(f"votes: none of {len(votes):,} decides anything", "votes for a, b, tie or both bad")
    table = _table(decided)
    by_question = table.wins
    wins = by_question.sum(axis=0)
    met = (wins + wins.T) > 0
    _refuse_apart(table.names, met)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(by_question), np.full(len(by_question), 1 / len(by_question)), size=resamples)
    drawn = np.tensordot(counts, by_question, axes=1)
    terry, elos = np.zeros((2, resamples, len(table.names)))
    for place, (count, own) in enumerate(zip(counts, drawn, strict=True)):
        terry[place] = _bradley_terry(own, met)
        elos[place] = _elo(table, _drawn(table, count, rng))
        tell(place + 1, resamples)
    elo = np.mean([_elo(table, rng.permutation(len(decided))) for _ in range(ORDERS)], axis=0)
    rating = _bradley_terry(wins, met)
    best_first = sorted(range(len(table.names)), key=lambda i: (-rating[i], i))
    pairs = [_meeting(table, pair, (wins, drawn), (rating, terry)) for pair in combinations(best_first, 2)]
    systems = _systems(table, pairs, [_spreads(rating, terry), _spreads(elo, elos)])
    return Ratings(
        systems=systems,
        pairs=pairs,
        votes=len(decided),
        questions=len(by_question),
        undecided=len(votes) - len(decided),
        resamples=resamples,
        seed=seed,
        bounded=float(np.mean([not _finite(one) for one in drawn])),
        notes=_notes(table.names, wins, len(by_question)),
    )


def expected(difference: float) -> float:
    """The share of votes that a system wins whose rating is so much higher (Elo 1978)."""
    return float(1 / (1 + 10 ** (-difference / 400)))


def _need_evalica() -> None:
    try:
        import evalica  # noqa: F401
    except ImportError:
        raise UserError(
            "rank: evalica, which computes the ratings, is not installed", fix="pip install 'residency[rank]'"
        ) from None


def _swapped(vote: Vote) -> Vote:
    winner = {"a": "b", "b": "a"}.get(vote.winner, vote.winner)
    return Vote(vote.question, vote.b, vote.a, winner, vote.voter)


def _table(votes: Sequence[Vote]) -> _Table:
    names = sorted({name for vote in votes for name in (vote.a, vote.b)})
    place = {name: i for i, name in enumerate(names)}
    questions = {question: i for i, question in enumerate(dict.fromkeys(vote.question for vote in votes))}
    return _Table(
        names,
        np.array([place[vote.a] for vote in votes]),
        np.array([place[vote.b] for vote in votes]),
        np.array([{"a": 1, "b": 2}.get(vote.winner, 0) for vote in votes]),
        np.array([questions[vote.question] for vote in votes]),
        np.array([vote.winner == "both bad" for vote in votes]),
    )


def _refuse_apart(names: list[str], met: Array) -> None:
    """Ratings of systems that no chain of votes connects would mean nothing beside each other."""
    near = _reach(met)[0]
    if not near.all():
        one, other = (listed((name for name, is_near in zip(names, near, strict=True) if is_near == side), 6)
                      for side in (True, False))  # fmt: skip
        raise UserError(
            f"votes: {one} and {other} were never compared, not even through other systems",
            "votes that connect all systems",
            "vote on pairs between them, or rank them apart",
        )


def _reach(edges: Array) -> Array:
    """Which system leads to which along the edges [systems, systems], in any number of steps."""
    found = edges.astype(bool) | np.eye(len(edges), dtype=bool)
    for _ in range(len(edges).bit_length()):
        found = (found.astype(int) @ found.astype(int)) > 0
    return found


def _finite(wins: Array) -> bool:
    """Whether the likeliest ratings are finite: each system won a vote of any other, or through others (Ford 1957)."""
    return bool(_reach(wins > 0).all())


def _bradley_terry(wins: Array, met: Array) -> Array:
    """Ratings [systems] of wins [systems, systems].

    Where the likeliest ones are infinite, each pair that met is given one tie more, which keeps them within bounds.
    """
    import evalica

    wins = wins if _finite(wins) else wins + 0.5 * met
    a, b = np.nonzero(wins)
    found = evalica.bradley_terry(
        a.tolist(),
        b.tolist(),
        [evalica.Winner.X] * len(a),
        weights=wins[a, b].tolist(),
        tolerance=TOLERANCE,
        limit=LIMIT,
    )
    logs = np.log(_placed(found.scores, len(wins), 1.0))
    return np.asarray(MEAN + SCALE * (logs - logs.mean()))


def _elo(table: _Table, order: Array) -> Array:
    """Ratings [systems] after the votes in this order, from 1000 on."""
    import evalica

    found = evalica.elo(
        table.a[order].tolist(),
        table.b[order].tolist(),
        table.winner[order].tolist(),
        initial=MEAN,
        scale=400,
        base=10,
        k=K,
    )
    return _placed(found.scores, len(table.names), MEAN)


def _placed(scores: Any, size: int, otherwise: float) -> Array:
    """evalica's scores in the order of the systems; `otherwise` for one without votes."""
    found = np.full(size, otherwise)
    found[scores.index.to_numpy()] = scores.to_numpy()
    return found


def _drawn(table: _Table, counts: Array, rng: np.random.Generator) -> Array:
    """The votes of a resample of questions, shuffled: each question's votes as often as it was drawn."""
    return rng.permutation(np.repeat(np.arange(len(table.question)), counts[table.question]))


def _spread(value: float, values: Array) -> Spread:
    low, high = np.nanpercentile(values, LEVEL)
    return Spread(float(value), float(low), float(high))


def _spreads(values: Array, drawn: Array) -> list[Spread]:
    return [_spread(value, own) for value, own in zip(values, drawn.T, strict=True)]


def _meeting(table: _Table, pair: tuple[int, int], won: tuple[Array, Array], rated: tuple[Array, Array]) -> Meeting:
    """What two systems did: `won` and `rated` hold wins and ratings, of all votes and of each resample."""
    (i, j), (wins, drawn), (rating, resampled) = pair, won, rated
    here, turned = (table.a == i) & (table.b == j), (table.a == j) & (table.b == i)
    met = here | turned
    share = None
    if met.any():
        together = drawn[:, i, j] + drawn[:, j, i]
        shares = np.divide(drawn[:, i, j], together, out=np.full(len(drawn), np.nan), where=together > 0)
        share = _spread(wins[i, j] / (wins[i, j] + wins[j, i]), shares)
    difference = _spread(rating[i] - rating[j], resampled[:, i] - resampled[:, j])
    return Meeting(
        a=table.names[i],
        b=table.names[j],
        wins=int((here & (table.winner == 1)).sum() + (turned & (table.winner == 2)).sum()),
        losses=int((here & (table.winner == 2)).sum() + (turned & (table.winner == 1)).sum()),
        ties=int((met & (table.winner == 0)).sum()),
        both_bad=int((met & table.both_bad).sum()),
        share=share,
        foreseen=expected(difference.value),
        difference=difference,
    )


def _systems(table: _Table, pairs: Sequence[Meeting], spreads: Sequence[list[Spread]]) -> list[Rating]:
    found = []
    for name, rating, elo in zip(table.names, *spreads, strict=True):
        won = sum(p.wins if p.a == name else p.losses for p in pairs if name in (p.a, p.b))
        lost = sum(p.losses if p.a == name else p.wins for p in pairs if name in (p.a, p.b))
        tied = sum(p.ties for p in pairs if name in (p.a, p.b))
        better = sum((p.a == name and p.difference.high < 0) or (p.b == name and p.difference.low > 0) for p in pairs)
        found.append(Rating(name, better + 1, rating, elo, won + lost + tied, won, lost, tied))
    return sorted(found, key=lambda one: (-one.rating.value, one.system))


def _notes(names: list[str], wins: Array, questions: int) -> list[str]:
    found = []
    if not _finite(wins):
        reach = _reach(wins > 0)
        top = [name for name, own, back in zip(names, reach, reach.T, strict=True) if own.sum() > back.sum()]
        found.append(
            f"{listed(top, 6)} won every vote against some other: how far ahead can't be told by these votes. The "
            "ratings are those with one tie more for each pair that met, and their intervals are too narrow."
        )
    if questions < 20:
        found.append(f"The votes are on {questions} questions: intervals by bootstrap over so few are too narrow.")
    return found
