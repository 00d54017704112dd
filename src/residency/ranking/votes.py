"""A vote: which of two systems gave the better answer to a question; and the files that hold votes, a line each.

The form is the one that preferences are learnt from (`residency.data.preferences`): question, answer_a, answer_b and
vote, which is a, b, tie or both bad. Ranking needs the systems' names on top, `a` and `b`, and no answers; so that one
file with all of it serves both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
    """The votes of a file, and how many of its lines are of other systems."""

    votes: list[Vote]
    others: int = 0


def read_votes(file: Path, names: Mapping[str, str], *, others: bool = False) -> Votes:
    """The votes of a JSONL file; `names` has for each name that a system may go by the name to rank it under.

    A vote on another system is an error, or counted where `others` are allowed.

    Raises:
        UserError: there is no such file, or a line holds no vote; the message names file and line.
    """
    found: list[Vote] = []
    foreign = 0
    for number, row in _rows(file):
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
    return Votes(found, foreign)


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """The number of each line that is not empty, counted from 1, and the JSON value that stands there."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"votes {file}: {error.strerror}", "a JSONL file of votes") from None
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
