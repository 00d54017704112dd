"""A model that says its answer piece by piece, until it ends or somebody stops it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from residency.decoding import alone
from residency.decoding.chosen import Chosen
from residency.decoding.text import Pieces
from residency.prompts import NOTHING, Before

Heard = Callable[[str], None]


@dataclass(frozen=True)
class Said:
    """An answer; `ended` is end (by itself), limit (of new tokens) or stopped (by the listener)."""

    text: str
    tokens: int
    ended: str


def say(
    model: Chosen,
    question: str,
    before: Before = NOTHING,
    max_new_tokens: int = 200,
    heard: Heard = lambda text: None,
) -> Said:
    """The answer to a question; `heard` gets each piece of its text as it is there.

    An interruption by the keyboard ends the answer, not the program.
    """
    ids, stops = model.prompt.prompt_ids(question, before), frozenset(model.prompt.stop_ids)
    pieces = Pieces(model.prompt.tokenizer, prompt=model.prompt)
    new: list[int] = []
    ended = "limit"

    def hear(token: int) -> bool:
        nonlocal ended
        if token in stops:
            ended = "end"
        else:
            new.append(token)
            tell(pieces.add(token))
        return True

    def tell(text: str) -> None:
        if text:
            heard(text)

    try:
        limit = max(1, min(max_new_tokens, model.window - len(ids)))
        alone.answer(model.model, ids, model.choosing, limit=limit, stops=stops, pad_id=model.pad_id, heard=hear)
        tell(pieces.end())
    except KeyboardInterrupt:
        ended = "stopped"
    return Said(model.prompt.decode(new), len(new), ended)
