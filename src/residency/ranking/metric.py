"""A metric as judge: the answer that is nearer to the reference wins, unless both are about as near."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from residency.ranking.systems import Asked
from residency.ranking.votes import Vote

METRICS = ("rouge-l", "chrf", "bleu")
MARGIN = 1.0  # points of 100; answers that differ by less are tied


def metric_votes(
    asked: Sequence[Asked],
    systems: Sequence[str],
    value: Callable[[str, str], float],
    *,
    margin: float = MARGIN,
    voter: str = "metric",
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[Vote]:
    """A vote for each pair of systems on each question; `value` scores an answer by its reference, more is better."""
    found = []
    for done, one in enumerate(asked, start=1):
        own = {name: value(one.answers[name], one.reference) for name in systems}
        for a, b in combinations(systems, 2):
            ahead = own[a] - own[b]
            winner = "tie" if abs(ahead) < margin or not ahead else "a" if ahead > 0 else "b"
            found.append(Vote(one.question, a, b, winner, voter))
        tell(done, len(asked))
    return found
