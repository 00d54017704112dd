"""Pairs of a chosen and a rejected answer to one question: from columns of texts or messages, or from people's votes.

A pair becomes one row with the columns row, question, answer (the chosen one) and rejected. Where the question stands
in a conversation, the earlier turns are rows of their own until cleaning is done, as in any conversation; their
`rejected` is empty, and they end up in the history of the pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from residency.data import conversations

SCHEMA = {**conversations.SCHEMA, "rejected": pl.String}
LEFT_OUT = {"row": pl.UInt32, "reason": pl.String, "question": pl.String, "answer": pl.String}
DECIDED = ("a", "b")
UNDECIDED = ("tie", "both bad")
LONGER = (
    0.65  # of the pairs, from which "longer is better" is what is learnt first (Park et al. 2024, arXiv:2403.19159)
)
COUNTED = 20  # pairs, at least, to speak of a share


@dataclass(frozen=True)
class Pairs:
    """Pairs to learn from, votes that decided nothing, and records that hold no pair, each with the reason."""

    rows: pl.DataFrame
    undecided: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=LEFT_OUT))
    malformed: list[tuple[int, str]] = field(default_factory=list)


def from_votes(rows: pl.DataFrame, votes: pl.Series) -> Pairs:
    """The better answer over the other one; `rows` has row, question, answer and rejected for the answers a and b."""
    said = votes.str.strip_chars().str.to_lowercase().str.replace_all("_", " ", literal=True)
    known = said.is_in([*DECIDED, *UNDECIDED, ""])
    malformed = [
        (row, f'vote is "{vote}", expected {", ".join(DECIDED)}, {" or ".join(UNDECIDED)}')
        for row, vote in zip(rows["row"].filter(~known), votes.filter(~known), strict=True)
    ]
    rows = rows.with_columns(vote=said)
    swapped = pl.col("vote") == "b"
    decided = rows.filter(pl.col("vote").is_in(DECIDED)).with_columns(
        answer=pl.when(swapped).then("rejected").otherwise("answer"),
        rejected=pl.when(swapped).then("answer").otherwise("rejected"),
    )
    left = rows.filter(pl.col("vote").is_in([*UNDECIDED, ""]))
    told = pl.when(pl.col("vote") == "").then(pl.lit("no vote")).otherwise("vote: " + pl.col("vote"))
    return Pairs(decided.drop("vote"), left.with_columns(reason=told).select(*LEFT_OUT), malformed)


def from_messages(rows: pl.DataFrame) -> Pairs:
    """Pairs whose prompt or answers are messages; `rows` has row, question, answer and rejected, texts or messages.

    Without a question the lists hold it: they share everything but their last message, the assistant's.
    """
    found: list[tuple[Any, ...]] = []
    malformed: list[tuple[int, str]] = []
    for row, question, chosen, rejected in rows.select("row", "question", "answer", "rejected").iter_rows():
        try:
            found += [(row, turn, *parts) for turn, parts in enumerate(_turns(question, chosen, rejected))]
        except ValueError as error:
            malformed.append((row, str(error)))
    return Pairs(pl.DataFrame(found, schema=SCHEMA, orient="row"), malformed=malformed)


def last_turns(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of conversations that are pairs: the last of each record; the others are history."""
    return rows.filter(pl.col("turn") == pl.col("turn").max().over("row"))


def opposite(rows: pl.DataFrame) -> pl.Series:
    """Pairs [rows] that somebody has the other way round: the same question and answers, swapped."""
    ways = rows.select(
        where=pl.struct(*(name for name in ("system", "history") if name in rows.columns), "question").hash(),
        one=pl.col("answer").hash(),
        other=pl.col("rejected").hash(),
    )
    back = ways.select("where", one="other", other="one").unique().with_columns(back=True)
    joined = ways.join(back, on=["where", "one", "other"], how="left", maintain_order="left")
    return joined["back"].fill_null(False)


def longer(rows: pl.DataFrame) -> pl.Series:
    """Pairs [rows] whose chosen answer is the longer one, where these are so many that length alone would tell."""
    lengths = rows.select(chosen=pl.col("answer").str.len_chars(), rejected=pl.col("rejected").str.len_chars())
    found = lengths["chosen"] > lengths["rejected"]
    stands_out = rows.height >= COUNTED and float(found.mean() or 0) >= LONGER  # type: ignore[arg-type]
    return found if stands_out else found & False


def _turns(question: Any, chosen: Any, rejected: Any) -> list[tuple[str, str, str, str]]:
    """(system, question, answer, rejected) of each turn of a record; only the last one has a rejected answer.

    Raises:
        ValueError: an answer is missing or malformed, or the two lists have more than the last message to themselves.
    """
    better, worse = (_talk(question, answer, name) for answer, name in ((chosen, "chosen"), (rejected, "rejected")))
    if better[:-1] != worse[:-1] or better[-1][:2] != worse[-1][:2]:
        raise ValueError("chosen and rejected differ before their last message")
    return [*((*turn, "") for turn in better[:-1]), (*better[-1], worse[-1][2])]


def _talk(question: Any, answer: Any, name: str) -> list[tuple[str, str, str]]:
    """The turns of a conversation that ends in an answer, the prompt put before it unless it stands there already."""
    asked = _messages(question, "user")
    messages = _messages(answer, "assistant")
    if not messages:
        raise ValueError(f"{name} is empty")
    try:
        roles = [conversations.role_and_text(message, place)[0] for place, message in enumerate(messages, start=1)]
        if roles[-1] != "assistant":
            raise ValueError(f"message {len(roles)}: the last one is the {roles[-1]}'s, expected the assistant's")
        whole = [*asked, *messages] if roles[0] == "assistant" else messages
        return conversations.turns_of(whole)
    except ValueError as error:
        raise ValueError(f"{name}, {error}") from None


def _messages(value: Any, role: str) -> list[Any]:
    """A list of messages as it is, a text as a message of the role, nothing as no message."""
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value.strip() else []
    return list(value or [])
