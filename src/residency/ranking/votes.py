"""A vote: which of two systems gave the better answer to a question; and the files that hold votes, a line each.

The form is the one that preferences are learnt from (`residency.data.preferences`): question, answer_a, answer_b and
vote, which is a, b, tie or both bad. Ranking needs the systems' names on top, `a` and `b`, and no answers; so that one
file with all of it serves both.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from residency.errors import UserError, listed, nearest

CHOICES = ("a", "b", "tie", "both bad")


@dataclass(frozen=True)
class Vote:
    """One comparison of two systems; `winner` is one of CHOICES, or empty where nobody decided.

    `answers` are a's and b's, where they are known.
    """

    question: str
    a: str
    b: str
    winner: str
    voter: str = ""
    answers: tuple[str, str] | None = None


@dataclass(frozen=True)
class Votes:
    """The votes of a file; how many of its lines are of other systems, and whether the last one was cut short."""

    votes: list[Vote]
    others: int = 0
    cut_short: bool = False


def read_votes(file: Path, names: Mapping[str, str], *, others: bool = False) -> Votes:
    """The votes of a JSONL file; `names` has for each name that a system may go by the name to rank it under.

    A vote on another system is an error, or counted where `others` are allowed: in a file of votes that grows by a line
    a vote, whose last line may also have been cut short.

    Raises:
        UserError: there is no such file, or a line holds no vote; the message names file and line.
    """
    found: list[Vote] = []
    foreign = 0
    text = _read(file)
    cut = _torn(text) if others else b""
    for number, row in _rows(file, text.removesuffix(cut)):
        where = f"{file} line {number}"
        vote = _vote(row, where)
        unknown = next((name for name in (vote.a, vote.b) if name not in names), None)
        if unknown is None:
            vote = replace(vote, a=names[vote.a], b=names[vote.b])
            _refuse_itself(vote, where)
            found.append(vote)
        elif others:
            foreign += 1
        else:
            raise UserError(f'{where}: system "{unknown}"', listed(names), nearest(unknown, names))
    return Votes(found, foreign, bool(cut))


def row_of(question: str, systems: tuple[str, str], answers: tuple[str, str], vote: str, voter: str) -> dict[str, Any]:
    """A vote of now on two systems' answers, a's first, as a file holds it."""
    return {
        "question": question,
        "a": systems[0],
        "b": systems[1],
        "answer_a": answers[0],
        "answer_b": answers[1],
        "vote": vote,
        "voter": voter,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def append(file: Path, row: Mapping[str, Any]) -> None:
    """Add a vote to a file, as a line of its own that is on the disk when this returns.

    Raises:
        OSError: it can't be written; what there is of it counts as no vote, and goes before the next one.
    """
    # Not `jsonl.add`, which leaves a line that was cut short: whoever reads votes takes it for a mistake and says so.
    mend(file)
    # Half of a surrogate pair, which no UTF-8 can hold, is written as JSON's escape.
    line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    # One write at the end of the file: another process that adds its votes never comes between.
    with file.open("ab", buffering=0) as opened:
        if opened.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(opened.fileno())


def mend(file: Path) -> None:
    """End the last line of a file; one that a kill cut short is no vote, and goes."""
    if not file.is_file() or _ends(file):
        return
    text = file.read_bytes()
    if cut := _torn(text):
        with file.open("rb+") as opened:
            opened.truncate(len(text) - len(cut))
    else:
        with file.open("ab") as opened:
            opened.write(b"\n")


def _ends(file: Path) -> bool:
    """Whether a file is empty, or its last line has its end."""
    with file.open("rb") as opened:
        if opened.seek(0, os.SEEK_END) == 0:
            return True
        opened.seek(-1, os.SEEK_END)
        return opened.read(1) == b"\n"


def _torn(text: bytes) -> bytes:
    """The last line where a kill cut it short: it has no end, and is no JSON."""
    last = text.rpartition(b"\n")[2]
    if not last.strip():
        return b""
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return last
    return b""


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"votes {file}: {error.strerror}", "a JSONL file of votes") from None


def _rows(file: Path, held: bytes) -> Iterator[tuple[int, Any]]:
    """The number of each line that is not empty, counted from 1, and the JSON value that stands there."""
    try:
        text = held.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"votes {file}: is no UTF-8 text (byte {error.start})", "a JSONL file of votes") from None
    # Not splitlines(): a text may hold other line separators of Unicode, which JSON leaves as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file} line {number}: is no JSON ({error})", "one vote a line, as JSON") from None


def _vote(row: Any, where: str) -> Vote:
    if not isinstance(row, dict):
        raise UserError(f"{where}: holds {type(row).__name__}", "an object with question, a, b and vote")
    question, a, b = (_text(row, key, where) for key in ("question", "a", "b"))
    one, other = row.get("answer_a"), row.get("answer_b")
    answers = (one, other) if isinstance(one, str) and isinstance(other, str) else None
    return Vote(question, a, b, _winner(row, where), str(row.get("voter") or ""), answers)


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        found = f"{key} is {json.dumps(value)[:60]}" if key in row else f"has no {key}"
        raise UserError(f"{where}: {found}", "an object with question, a, b (names of systems) and vote")
    return value


def _winner(row: dict[str, Any], where: str) -> str:
    """The choice of a vote, however it is spelt; empty where it says that nobody decided."""
    given = {key: row[key] for key in ("vote", "winner") if key in row}
    if not given:
        raise UserError(f"{where}: has no vote", f"vote, one of {listed(CHOICES)}")
    said = {"" if value is None else str(value).strip().lower().replace("_", " ") for value in given.values()}
    if len(said) > 1:
        raise UserError(
            f"{where}: vote is {given['vote']!r} and winner {given['winner']!r}", "one of them, or the same"
        )
    choice = said.pop()
    if choice not in (*CHOICES, ""):
        key, value = next(iter(given.items()))
        raise UserError(f"{where}: {key} is {json.dumps(value)[:60]}", listed(CHOICES), nearest(choice, CHOICES))
    return choice


def _refuse_itself(vote: Vote, where: str) -> None:
    if vote.a == vote.b:
        raise UserError(f'{where}: a and b are both "{vote.a}"', "two systems")
