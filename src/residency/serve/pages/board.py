"""The votes so far as ratings, for the page and its picture."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from residency import ranking
from residency.errors import UserError, listed
from residency.ranking import Own, Ratings
from residency.report import ranked
from residency.workspace import VOTES, Run

RESAMPLES = 300  # fewer than `residency rank` takes by itself: a page is waited for
LEFT_OUT = {
    "of_other_systems": "of systems that this run does not have",
    "on_former_answers": "on answers that this run no longer gives",
    "cut_short": "cut short by a stop in the middle of writing",
}


@dataclass(frozen=True)
class Standing:
    """What the page shows: texts for its tables, a sentence on the votes, and the picture as SVG."""

    told: str
    systems: list[dict[str, Any]]
    pairs: list[dict[str, str]]
    notes: list[str]
    picture: str
    version: str


class Board:
    """The ratings of a run's votes, computed again only when a vote or an answer has changed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()  # matplotlib's settings are the whole process's
        self._kept: tuple[str, Standing] | None = None

    def standing(self) -> Standing:
        """The ratings as they are now.

        Raises:
            UserError: nobody voted, the run was not evaluated, or the votes can't be rated; also without evalica.
        """
        with self._lock:
            version = self._version()
            if self._kept is None or self._kept[0] != version:
                self._kept = (version, self._rate(version))
            return self._kept[1]

    def _version(self) -> str:
        """A name for what the ratings follow from."""
        digest = hashlib.sha256()
        for name in (VOTES, ranking.systems.ANSWERS):
            file = self._run.folder / name
            digest.update(file.read_bytes() if file.is_file() else b"")
        return digest.hexdigest()[:16]

    def _rate(self, version: str) -> Standing:
        own = ranking.own_votes([self._run], ranking.answered([self._run]))
        if not own.votes:
            raise UserError("nobody has voted yet")
        found = ranking.rate(own.votes, resamples=RESAMPLES)
        content = asdict(found)
        return Standing(
            _told(found, own),
            ranked.systems(content),
            ranked.pairs(content),
            found.notes,
            ranked.picture_alone(content),
            version,
        )


def _told(found: Ratings, own: Own) -> str:
    """Who voted, on what, and what was left out."""
    by = Counter(vote.voter or "people who gave no name" for vote in own.votes)
    who = listed((f"{name} ({count:,})" for name, count in by.most_common()), 8)
    sentences = [f"{found.votes:,} votes on {found.questions:,} questions, by {who}."]
    sentences += [f"{own.left_out[key]:,} left out: {why}." for key, why in LEFT_OUT.items() if own.left_out[key]]
    if found.undecided:
        sentences.append(f"{found.undecided:,} decided nothing.")
    return " ".join(sentences)
