"""A model as judge: each pair of answers is shown twice, the places swapped, and only what it says both times counts.

Judges prefer an answer for its place (Zheng et al. 2023, arXiv:2306.05685): a pair that is judged by the place is a
tie, and how often that happens is told.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import combinations
from pathlib import Path
from string import Template
from typing import Any

from residency.ranking.systems import Asked
from residency.ranking.votes import Vote, append, mend, row_of

Ask = Callable[[list[str], Callable[[str, str], None]], list[str]]

AT_ONCE = 4  # pairs that are asked about at once, each with two questions
SAID = ("A", "B", "TIE")


@dataclass(frozen=True)
class Judged:
    """The judge's votes, and what has to be said of them.

    `pairs` were to be judged, of which `same` had twice the same answer and are tied without asking, and `kept` had
    been judged before. Of those that the judge saw, `agreed` are pairs that it judged alike both times; `first` and
    `second` are those where it chose the same place twice; `wavered` where it said a tie once and no tie the other
    time; of `unread` a reply could not be read.
    """

    votes: list[Vote]
    pairs: int
    same: int
    kept: int
    agreed: int
    first: int
    second: int
    wavered: int
    unread: int

    @property
    def position_bias(self) -> float | None:
        """The share of the readable pairs that were judged by their place alone; None where there is none."""
        read = self.agreed + self.first + self.second + self.wavered
        return (self.first + self.second) / read if read else None


@dataclass(frozen=True)
class Pair:
    """Two systems' answers to one question."""

    asked: Asked
    a: str
    b: str

    @property
    def answers(self) -> tuple[str, str]:
        """The two answers, a's first."""
        return self.asked.answers[self.a], self.asked.answers[self.b]

    @property
    def prompts(self) -> tuple[str, str]:
        """What the judge is asked: a's answer in the first place, then in the second."""
        one, other = self.answers
        return prompt(self.asked, one, other), prompt(self.asked, other, one)

    def row(self, voter: str, replies: tuple[str, str]) -> dict[str, Any]:
        """The pair with its vote, as it is kept; the vote is empty where a reply can't be read."""
        said = [read(reply) for reply in replies]
        found = row_of(self.asked.question, (self.a, self.b), self.answers, verdict(*said), voter)
        return found | {"said": said, "replies": list(replies), "prompt": _digest(*self.prompts)}


class Judging:
    """A judge's votes in a JSONL file that grows by a line a pair: what was judged before is not asked again."""

    def __init__(self, file: Path, voter: str) -> None:
        self.file, self.voter = file, voter
        mend(file)
        self.known = {row["prompt"]: row for row in _kept(file) if row["voter"] == voter}
        self.lock = threading.Lock()  # an endpoint's replies come from several threads

    def find(self, pair: Pair) -> dict[str, Any] | None:
        """The pair as it was judged before; with other answers, or another wording of the prompt, it was not."""
        return self.known.get(_digest(*pair.prompts))

    def keep(self, pair: Pair, replies: tuple[str, str]) -> None:
        """Remember a judged pair, on the disk as well."""
        row = pair.row(self.voter, replies)
        self.known[row["prompt"]] = row
        append(self.file, row)

    def judge(self, pairs: Sequence[Pair], ask: Ask) -> None:
        """Have the pairs judged at once; each is kept as soon as both of its replies are there."""
        replies: dict[str, str] = {}
        waiting = list(pairs)

        def heard(asked: str, reply: str) -> None:
            with self.lock:
                replies[asked] = reply
                for pair in [pair for pair in waiting if all(one in replies for one in pair.prompts)]:
                    waiting.remove(pair)
                    first, second = pair.prompts
                    self.keep(pair, (replies[first], replies[second]))

        ask(list(dict.fromkeys(one for pair in pairs for one in pair.prompts)), heard)


def judge_votes(
    asked: Sequence[Asked],
    systems: Sequence[str],
    ask: Ask,
    judging: Judging,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Judged:
    """A judge's vote on each pair of systems for each question; `tell` is given how many pairs are done.

    Raises:
        UserError: the endpoint fails; what was judged until then is kept.
    """
    pairs = [Pair(one, a, b) for one in asked for a, b in combinations(systems, 2)]
    differ = [pair for pair in pairs if pair.answers[0] != pair.answers[1]]
    unknown = {pair.prompts: pair for pair in differ if judging.find(pair) is None}
    new = list(unknown.values())  # a pair that comes twice is judged once
    kept = sum(judging.find(pair) is not None for pair in differ)
    tell(len(pairs) - len(new), len(pairs))
    for start in range(0, len(new), AT_ONCE):
        batch = new[start : start + AT_ONCE]
        judging.judge(batch, ask)
        tell(len(pairs) - len(new) + start + len(batch), len(pairs))
    rows = [(pair, judging.find(pair)) for pair in differ]
    ties = [Vote(p.asked.question, p.a, p.b, "tie", judging.voter) for p in pairs if p.answers[0] == p.answers[1]]
    votes = [Vote(p.asked.question, p.a, p.b, row["vote"], judging.voter) for p, row in rows if row]
    kinds = [_kind(*row["said"]) for _, row in rows if row]
    return Judged(
        votes + ties,
        pairs=len(pairs),
        same=len(ties),
        kept=kept,
        **{kind: kinds.count(kind) for kind in ("agreed", "first", "second", "wavered", "unread")},
    )


def prompt(asked: Asked, first: str, second: str) -> str:
    """What the judge is asked about two answers, in this order: `assets/judge.txt`, filled in."""
    turns = [asked.system] if asked.system else []
    turns += [f"Person: {question}\nReply: {answer}" for question, answer in asked.history]
    before = "\n\n".join(turns)
    return Template(_template()).substitute(
        conversation=f"<conversation_before>\n{before}\n</conversation_before>\n\n" if before else "",
        question=asked.question,
        reference=asked.reference or "(none)",
        first=first or "(nothing)",
        second=second or "(nothing)",
    )


@lru_cache(maxsize=1)
def _template() -> str:
    return (resources.files("residency") / "assets" / "judge.txt").read_text("utf-8")


def read(reply: str) -> str | None:
    """What the judge says: A, B or TIE; None where the reply has another form.

    It is JSON with `winner`, in a fence or not, or it ends in a line of such JSON or of the one word.
    """
    lines = [line.strip() for line in reply.strip().splitlines() if line.strip().strip("`")]
    if lines and lines[0].startswith("```"):
        lines = lines[1:]
    for text in ("\n".join(lines), lines[-1] if lines else ""):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        said = value.get("winner") if isinstance(value, dict) else value
        if isinstance(said, str) and said.strip().upper() in SAID:
            return said.strip().upper()
    return None


def verdict(first: str | None, second: str | None) -> str:
    """The vote of what was said with a in the first place, and in the second; empty where one can't be read."""
    if first is None or second is None:
        return ""
    one, other = {"A": "a", "B": "b"}.get(first, "tie"), {"A": "b", "B": "a"}.get(second, "tie")
    return one if one == other else "tie"


def _kind(first: str | None, second: str | None) -> str:
    if first is None or second is None:
        return "unread"
    if first == second != "TIE":
        return "first" if first == "A" else "second"
    return "wavered" if "TIE" in (first, second) and first != second else "agreed"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _kept(file: Path) -> list[dict[str, Any]]:
    """The lines of a judge in a file of votes; a line that it was stopped in, or of somebody else, is passed over."""
    found = []
    for line in file.read_bytes().split(b"\n") if file.is_file() else []:
        try:
            row = json.loads(line)
            first, second = row["said"]
            known = {None, *SAID}
            if {first, second} <= known and isinstance(row["prompt"], str) and isinstance(row["voter"], str):
                found.append({**row, "vote": verdict(first, second)})
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    return found
