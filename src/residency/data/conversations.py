"""Conversations of several turns: each assistant turn is an answer, and what was said before it is its history.

A record with a list of messages becomes one row an answer, with the columns row (the record's), turn (counted from 0),
system, question and answer. What came before an answer is joined only after cleaning, so that a text is cleaned in the
same way where it is learnt and where it is history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
KEYS = (("role", "content"), ("from", "value"))  # OpenAI's messages, ShareGPT's conversations
SCHEMA = {"row": pl.UInt32, "turn": pl.UInt32, "system": pl.String, "question": pl.String, "answer": pl.String}
HISTORY = pl.List(pl.List(pl.String))  # [earlier turns, (question, answer)]


@dataclass(frozen=True)
class Turns:
    """The answers of all conversations, and the records that gave none, each with the reason."""

    rows: pl.DataFrame
    malformed: list[tuple[int, str]]
    unanswered: list[int]


def holds_messages(column: pl.Series) -> bool:
    """Whether a column is a list of messages: objects with role and content, or from and value."""
    inner = getattr(column.dtype, "inner", None)
    if not isinstance(inner, pl.Struct):
        return False
    names = {field.name for field in inner.fields}
    return any(names.issuperset(keys) for keys in KEYS)


def explode(rows: pl.DataFrame, column: str) -> Turns:
    """One row for each assistant turn of each record."""
    turns: list[tuple[Any, ...]] = []
    malformed: list[tuple[int, str]] = []
    unanswered: list[int] = []
    for row, messages in zip(rows["row"].to_list(), rows[column].to_list(), strict=True):
        try:
            own = turns_of(messages or [])
        except ValueError as error:
            malformed.append((row, str(error)))
            continue
        if not own:
            unanswered.append(row)
        turns += [(row, turn, *parts) for turn, parts in enumerate(own)]
    return Turns(pl.DataFrame(turns, schema=SCHEMA, orient="row"), malformed, unanswered)


def turns_of(messages: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(system, question, answer) of each assistant turn; user messages in a row are one question.

    Raises:
        ValueError: an unknown role, a message that holds no text, or an answer with nothing asked before it.
    """
    system, asked, found = [], [], []
    for place, message in enumerate(messages, start=1):
        role, text = role_and_text(message, place)
        if role == "system":
            system.append(text)
        elif role == "user":
            asked.append(text)
        elif not asked:
            raise ValueError(f"message {place}: an assistant turn with no user turn before it")
        else:
            found.append(("\n\n".join(system), "\n\n".join(asked), text))
            asked = []
    return found


def role_and_text(message: dict[str, Any] | None, place: int) -> tuple[str, str]:
    """The role and the text of a message; `place` counts from 1.

    Raises:
        ValueError: its role is missing or unknown, or it holds no text.
    """
    keys = next((keys for keys in KEYS if message and message.get(keys[0]) is not None), None)
    if message is None or keys is None:
        raise ValueError(f"message {place}: no role")
    name, text = message[keys[0]], message.get(keys[1])
    role = ROLES.get(str(name).lower())
    if role is None:
        raise ValueError(f'message {place}: unknown role "{name}", expected one of {", ".join(ROLES)}')
    if not isinstance(text, str):
        raise ValueError(f"message {place}: no text")
    return role, text


def with_history(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with a column `history`: the earlier questions and answers of the same record, oldest first."""
    history: list[list[list[str]]] = []
    before: list[list[str]] = []
    for turn, question, answer in rows.select("turn", "question", "answer").iter_rows():
        before = [] if turn == 0 else before
        history.append(list(before))
        before.append([question, answer])
    return rows.with_columns(pl.Series("history", history, dtype=HISTORY))


def one_cluster_each(clusters: np.ndarray, records: np.ndarray) -> np.ndarray:
    """Clusters of rows [rows], joined where rows come from the same record [rows]."""
    joined: np.ndarray = clusters.copy()
    while True:
        # Two labellings of the same rows: the least label spreads through both until nothing changes.
        before = joined.copy()
        for labels in (records, clusters):
            _, place = np.unique(labels, return_inverse=True)
            least = np.full(place.max(initial=0) + 1, np.iinfo(joined.dtype).max, dtype=joined.dtype)
            np.minimum.at(least, place, joined)
            joined = least[place]
        if (joined == before).all():
            return joined
