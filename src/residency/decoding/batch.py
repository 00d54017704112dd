"""Answers side by side: a question enters at any time, and an answer leaves as soon as it has ended.

transformers' `generate` pads a batch to its longest question, holds answers that have ended until the last one ends,
and copies all keys and values at each token. Here each answer has a place of its own for as long as it runs; nothing is
padded but by the lengths of the answers that run side by side; and keys and values lie in memory that is allotted once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from residency.decoding.body import Body
from residency.decoding.choosing import Choosing, drawn
from residency.decoding.slots import Slots

TOKENS_AT_ONCE = 2048  # of prompts in one forward pass
SHARED = 8  # tokens that all prompts begin with; fewer are not worth a pass of their own
PLAIN = Choosing()


@dataclass(frozen=True, eq=False)
class Asked:
    """A prompt in tokens, the longest answer, how its tokens are chosen, and whose it is."""

    ids: list[int]
    limit: int
    choosing: Choosing = PLAIN
    key: Any = None


@dataclass(eq=False)
class Row:
    """An answer on its way: `ids` are those of the prompt and, after them, the answer's.

    `ended` is stop (by a token that ends answers, which is not among `ids`), limit, or empty while it goes on. Times
    are of `time.perf_counter`: when the question entered, its first and its last token. `faulty` says that its logits
    are no numbers.
    """

    asked: Asked
    ids: list[int]
    started: float
    first: float = 0.0
    last: float = 0.0
    ended: str = ""
    faulty: bool = False
    runs: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    random: random.Random | None = None

    @classmethod
    def begin(cls, asked: Asked, now: float) -> Row:
        """A row that holds its prompt."""
        dice = random.Random(asked.choosing.seed) if asked.choosing.draws else None
        row = cls(asked, [], now, random=dice)
        for token in asked.ids:
            row._add(token)
        return row

    @property
    def answer(self) -> list[int]:
        """The answer's tokens so far."""
        return self.ids[len(self.asked.ids) :]

    def take(self, token: int, stops: Collection[int], now: float) -> None:
        """One more token of the answer, or the one that ends it."""
        self.first, self.last = self.first or now, now
        if token in stops:
            self.ended = "stop"
            return
        self._add(token)
        if len(self.ids) - len(self.asked.ids) == self.asked.limit:
            self.ended = "limit"

    def _add(self, token: int) -> None:
        """Runs of tokens that may not come twice are remembered by their beginning."""
        size = self.asked.choosing.no_repeat_ngram_size
        self.ids.append(token)
        if size and len(self.ids) >= size:
            self.runs.setdefault(tuple(self.ids[len(self.ids) - size : -1]), []).append(token)

    def banned(self) -> Sequence[int]:
        """Tokens that would make a run come twice."""
        size = self.asked.choosing.no_repeat_ngram_size
        return self.runs.get(tuple(self.ids[len(self.ids) - size + 1 :]), ()) if size else ()


class Batch:
    """So many rows, each with room for `columns` tokens of a prompt and its answer."""

    def __init__(self, model: Body, *, rows: int, columns: int, stops: Collection[int]) -> None:
        self.model, self.rows, self.stops = model, rows, frozenset(stops)
        self.running: list[Row] = []
        self.shared: list[int] = []
        self.device = model.model.device
        self.slots = Slots(model.layers, rows, columns)
        self.said = torch.zeros(rows, columns, dtype=torch.long, device=self.device)

    @property
    def free(self) -> int:
        """Places that a question may enter."""
        return self.rows - len(self.running)

    def share(self, ids: list[int]) -> None:
        """Keys and values of what most prompts begin with, such as a system message, are computed once."""
        self.shared = ids if len(ids) >= SHARED else []
        if not self.shared:
            return
        given = torch.tensor([ids], device=self.device)
        self.slots.fill(0, 1, 0, len(ids))
        with self.model.only(torch.zeros(1, dtype=torch.long, device=self.device)):
            self.model.logits(given, torch.arange(len(ids), device=self.device)[None], None, self.slots)
        self.slots.keep_shared(len(ids))

    def room(self, waiting: Iterable[Asked]) -> int:
        """How many of those that wait, from the first one on, go through the model at once; 0 if no place is free."""
        count = longest = 0
        alike = None  # all of them begin with what is shared, or none
        for one in waiting:
            begins = self._begins(one)
            longest = max(longest, len(one.ids) - begins * len(self.shared))
            if count == self.free or (count and ((count + 1) * longest > TOKENS_AT_ONCE or begins != alike)):
                break
            count, alike = count + 1, begins
        return count

    def enter(self, asked: Sequence[Asked]) -> list[Row]:
        """As many as `room` says take free places and get their first token; their rows, also those that end with it.

        Where it raises, the batch is as before.
        """
        alike = all(self._begins(one) for one in asked)
        return self._prefill(asked, len(self.shared) if alike else 0)

    def step(self) -> list[Row]:
        """One more token for every answer; their rows, also those that have ended with it."""
        return self._take(0, self.logits())

    def leave(self, row: Row) -> None:
        """An answer that is not wanted any more gives its place up."""
        self._close_ranks([self.running.index(row)])

    def _begins(self, asked: Asked) -> bool:
        return bool(self.shared) and len(asked.ids) > len(self.shared) and asked.ids[: len(self.shared)] == self.shared

    def _prefill(self, asked: Sequence[Asked], start: int) -> list[Row]:
        first, last, started = len(self.running), len(self.running) + len(asked), time.perf_counter()
        own = [one.ids[start:] for one in asked]
        width = max(map(len, own))
        # Padded on the right, where a causal model does not look. With the row's own last token, since a model may
        # warn of a padding token without a mask.
        ids = torch.tensor([row + row[-1:] * (width - len(row)) for row in own], device=self.device)
        positions = torch.arange(start, start + width, device=self.device)[None]
        mask = self.model.mask(positions, start + width) if start else None
        if start:
            self.slots.put_shared(first, last)
        self.slots.fill(first, last, start, width)
        with self.model.only(torch.tensor([len(row) - 1 for row in own], device=self.device)):
            logits = self.model.logits(ids, positions, mask, self.slots)
        for slot, one in enumerate(asked, start=first):
            if one.choosing.repetition_penalty != 1.0:
                # Behind the prompt stands its first token, time and again: to be penalised twice is to be so once.
                self.said[slot] = one.ids[0]
                self.said[slot, : len(one.ids)] = torch.tensor(one.ids, device=self.device)
        self.running += [Row.begin(one, started) for one in asked]
        try:
            return self._take(first, logits[:, -1])
        except BaseException:
            del self.running[first:]
            raise

    def logits(self) -> torch.Tensor:
        """Logits [running, vocabulary] after the last token of each answer."""
        lengths = [len(row.ids) - 1 for row in self.running]  # of what lies in the slots
        columns = torch.tensor(lengths, device=self.device)
        width = max(lengths) + 1
        self.slots.step(columns, width)
        ids = torch.tensor([row.ids[-1:] for row in self.running], device=self.device)
        return self.model.logits(ids, columns[:, None], self.model.mask(columns[:, None], width), self.slots)[:, -1]

    def _take(self, first: int, logits: torch.Tensor) -> list[Row]:
        """Choose the next token of the answers from place `first` on, and let go those that have ended."""
        rows = self.running[first:]
        tokens = self._choose(first, logits)
        now = time.perf_counter()
        if any(row.asked.choosing.repetition_penalty != 1.0 for row in rows):
            columns = torch.tensor([len(row.ids) for row in rows], device=self.device)
            slots = torch.arange(first, len(self.running), device=self.device)
            self.said[slots, columns] = torch.tensor(tokens, device=self.device)
        for row, token in zip(rows, tokens, strict=True):
            row.take(token, self.stops, now)
        self._close_ranks([slot for slot, row in enumerate(rows, start=first) if row.ended])
        return rows

    def _close_ranks(self, over: list[int]) -> None:
        """The last running answers move into the places of those that have ended."""
        for slot in reversed(over):
            if self.running[slot].faulty:
                self.slots.wipe(slot)  # what is masked must still be a number
            last = self.running.pop()
            if slot < len(self.running):
                self.running[slot] = last
                self.slots.move(len(self.running), slot, len(last.ids))
                self.said[slot] = self.said[len(self.running)]

    def _choose(self, first: int, logits: torch.Tensor) -> list[int]:
        """The next tokens [rows], each by its own row's choosing."""
        rows = self.running[first:]
        choosing = [row.asked.choosing for row in rows]
        penalties = [one.repetition_penalty for one in choosing]
        if any(one != PLAIN for one in choosing):
            logits = logits.float()
        if set(penalties) != {1.0}:
            penalty: Any = torch.tensor(penalties, device=self.device)[:, None]
            penalty = penalties[0] if len(set(penalties)) == 1 else penalty
            said = self.said[first : len(self.running), : max(len(row.ids) for row in rows)]
            scores = logits.gather(1, said)
            logits = logits.scatter(1, said, torch.where(scores < 0, scores * penalty, scores / penalty))
        banned = [row.banned() for row in rows]
        if any(banned):
            places = [place for place, own in enumerate(banned) for _ in own]
            logits[places, [token for own in banned for token in own]] = -torch.inf
        best = logits.max(-1)  # on a CPU four times as fast as argmax
        tokens: list[int] = best.indices.tolist()
        for row, faulty in zip(rows, best.values.isnan().tolist(), strict=True):
            row.faulty = row.faulty or faulty
        dice = [(place, row.random) for place, row in enumerate(rows) if row.random and not row.faulty]
        if dice:
            places = [place for place, _ in dice]
            found = drawn(logits[places], [choosing[place] for place in places], [own.random() for _, own in dice])
            for place, token in zip(places, found, strict=True):
                tokens[place] = token
        return tokens
