"""From documents to question-answer pairs: each checked, once, and with the passage that it is from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from residency.data import duplicates
from residency.data.synthesise import model, rules
from residency.data.synthesise.model import PROMPT, Ask, Tell
from residency.data.synthesise.pairs import Pair, checked
from residency.data.synthesise.passages import Document, documents
from residency.data.synthesise.replies import Replies
from residency.endpoint import Endpoint
from residency.errors import UserError, listed
from residency.progress import Silent
from residency.sections import SynthesiseSection

EXACT = "exact duplicate"
NEAR = "near duplicate"
EMPTY = "document without text"


@dataclass(frozen=True)
class Synthesised:
    """The pairs that stay, why others do not, and what a model was asked.

    `rows` has the document's `row` and `source`, `question`, `answer`, and the `passage` that the answer is from.
    `dropped` counts pairs, unreadable replies and empty documents by reason; `unused` counts passages of which no pair
    stays. `prompt` is the text that a model is asked with, None where none is.
    """

    rows: pl.DataFrame
    dropped: dict[str, int]
    prompt: str | None
    passages: int
    unused: int


def synthesise(
    rows: pl.DataFrame,
    section: SynthesiseSection,
    ask: Ask | None = None,
    tell: Tell | None = None,
    replies: Replies | None = None,
) -> Synthesised:
    """Question-answer pairs from documents: rows of `row`, `text` and, where it is known, `source`.

    `ask` is the run's own model, a reply for each prompt; a recipe's endpoint is asked in its place. `tell` is told the
    task's name, and how many of how many passages a model has been asked about. `replies` keeps what was replied, and
    what it has already is not asked again.

    Raises:
        UserError: a column is missing, there is no model to ask, or the endpoint fails.
    """
    missing = [name for name in ("row", "text") if name not in rows.columns]
    if missing:
        raise UserError(f"data.synthesise: no column {listed(missing)}", "documents in the columns row and text")
    ask = _asked(section, ask, replies)
    read = documents(rows, section.passage_words)
    passages = [passage for document in read for passage in document.passages]
    place = {id(passage): number for number, passage in enumerate(passages)}
    pairs = [checked(pair, section.grounded) for pair in _pairs(read, section, ask, tell or Silent().step)]
    pairs.sort(key=lambda pair: place[id(pair.passage)])  # a rule's pair stays before a model's, which repeats it
    dropped = Counter({EMPTY: sum(not document.passages for document in read)})
    dropped.update(pair.fault for pair in pairs if pair.fault)
    good = [pair for pair in pairs if not pair.fault]
    table = _table(good, [place[id(pair.passage)] for pair in good], rows.schema["row"])
    table = _once(table, section.near_duplicate, dropped)
    used = table["place"].n_unique()
    reasons = {reason: count for reason, count in dropped.items() if count}
    return Synthesised(table.drop("place"), reasons, PROMPT if ask else None, len(passages), len(passages) - used)


def _asked(section: SynthesiseSection, own: Ask | None, replies: Replies | None) -> Ask | None:
    if "model" not in section.by:
        return None
    if section.endpoint:
        endpoint = Endpoint.of(section)
        return replies.first(lambda prompts: endpoint.ask(prompts, replies.keep)) if replies else endpoint.ask
    if own is None:
        raise UserError(
            "data.synthesise.by: has model, and there is none to ask", fix="add an endpoint, or by: [rules]"
        )
    return replies.first(own) if replies else own


def _pairs(read: Sequence[Document], section: SynthesiseSection, ask: Ask | None, tell: Tell) -> Iterator[Pair]:
    for document in read if "rules" in section.by else []:
        yield from rules.pairs(document)
    if ask:
        passages = [passage for document in read for passage in document.passages]
        yield from model.pairs(passages, ask, section.pairs, section.at_once, tell)


def _table(pairs: list[Pair], places: list[int], row: pl.DataType) -> pl.DataFrame:
    names = ("question", "answer", "passage", "source")
    schema = {"row": row, **dict.fromkeys(names, pl.String()), "place": pl.Int64()}
    values = [
        (pair.passage.row, pair.question, pair.answer, pair.passage.text, pair.passage.source, place)
        for pair, place in zip(pairs, places, strict=True)
    ]
    return pl.DataFrame(values, schema=schema, orient="row")


def _once(rows: pl.DataFrame, threshold: float, dropped: Counter[str]) -> pl.DataFrame:
    """Without the pairs that repeat an earlier one; what leaves is added to `dropped`.

    A near repeat has an answer that was given before, or a question that its passage was asked before. Like questions
    of other passages are none: the headings of two documents may well be the same.
    """
    repeated = duplicates.exact(rows)
    dropped[EXACT] += int(repeated.sum())
    rows = rows.filter(~repeated)
    answers = duplicates.clusters(rows.with_columns(question=pl.lit("")), threshold)
    questions = duplicates.clusters(rows.with_columns(answer=pl.lit("")), threshold)
    asked = pl.DataFrame({"place": rows["place"], "question": questions})
    first = pl.Series(answers).is_first_distinct() & asked.select(pl.struct(pl.all()).is_first_distinct()).to_series()
    dropped[NEAR] += int((~first).sum())
    return rows.filter(first)
