"""How the faults changed from one run to another, over the questions that both answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from residency.errors import UserError
from residency.evaluate.faults.find import Found
from residency.evaluate.faults.report import difference, share
from residency.evaluate.faults.rules import CATEGORIES


@dataclass(frozen=True)
class Shared:
    """The places of the questions that both runs have, in the one and in the other."""

    now: list[int]
    before: list[int]


def shared(now: Found, before: Found) -> Shared:
    """The questions of both runs, by row and wording.

    Raises:
        UserError: there is none.
    """
    places = {(one.row, one.question): place for place, one in enumerate(before.asked)}
    both = [
        (place, places[one.row, one.question])
        for place, one in enumerate(now.asked)
        if (one.row, one.question) in places
    ]
    if not both:
        raise UserError("--before: the two runs share no test question", "runs over the same data and split")
    return Shared([one for one, _ in both], [other for _, other in both])


def change(now: Found, before: Found, resamples: int, system: str = "tuned") -> dict[str, Any]:
    """For each category a system's share before and now, and the paired difference with its interval.

    Questions that only one run has are left out and counted.
    """
    both = shared(now, before)
    rows = []
    for name in CATEGORIES:
        new = [now.marks(system, name)[place] for place in both.now]
        old = [before.marks(system, name)[place] for place in both.before]
        rows.append(
            {
                "name": name,
                "before": share(old),
                "now": share(new),
                "difference": difference(new, old, resamples),
            }
        )
    return {
        "questions": len(both.now),
        "only_now": len(now.asked) - len(both.now),
        "only_before": len(before.asked) - len(both.before),
        "system": system,
        "categories": rows,
    }
