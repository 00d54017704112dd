"""The votes that lie in the run folders themselves, as people cast them on the pages and a judge left them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from residency.ranking.systems import Answered
from residency.ranking.votes import Vote, read_votes
from residency.workspace import VOTES, Run


@dataclass(frozen=True)
class Own:
    """The votes of some runs, the files that hold them, and how many were left out for which reason."""

    votes: list[Vote]
    files: list[Path]
    left_out: dict[str, int]


def own_votes(runs: Sequence[Run], given: Answered) -> Own:
    """The votes in `evaluation/votes.jsonl` of each run that has some, on the answers that its systems `given` now.

    Raises:
        UserError: a line holds no vote; the message names file and line.
    """
    files = [run.folder / VOTES for run in runs]
    there = [(file, own) for file, own in zip(files, given.own, strict=True) if file.is_file()]
    read = [read_votes(file, {**given.names, **own}, others=True) for file, own in there]
    votes = [vote for one in read for vote in one.votes]
    current = [vote for vote in votes if given.gave(vote)]
    left_out = {
        "of_other_systems": sum(one.others for one in read),
        "on_former_answers": len(votes) - len(current),
        "cut_short": sum(one.cut_short for one in read),
    }
    return Own(current, [file for file, _ in there], left_out)
