"""Greedy decoding of a list of questions, each answered exactly as if it were asked alone.

An answer that has ended leaves the batch at once and the next question takes its place (`residency.decoding.batch`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile

from residency.decoding.batch import Asked, Batch, Row
from residency.decoding.body import Body
from residency.decoding.choosing import Choosing
from residency.decoding.packed import packed

PLACES_FREE = 8  # new questions wait until an eighth of the places is free: a pass for one alone is slow


@dataclass(frozen=True)
class Ended:
    """An answer's tokens without the one that ended it, and seconds since its question entered the batch."""

    ids: list[int]
    stopped: bool
    first_token_seconds: float
    seconds: float


class Decoder:
    """A batch that questions enter, longest first, and answers leave."""

    def __init__(
        self,
        model: Body,
        prompts: Sequence[list[int]],
        choosing: Choosing,
        *,
        stops: Collection[int],
        limit: int,
        most: int,
        heard: Callable[[int, Ended], None] = lambda place, ended: None,
        tell: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.model, self.prompts, self.limit, self.heard, self.tell = model, prompts, limit, heard, tell
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        self.waiting = deque(Asked(prompts[place], limit, choosing, place) for place in order)
        columns = max(map(len, prompts)) + limit
        self.batch = Batch(model, rows=min(most, len(prompts)), columns=columns, stops=stops)
        self.done = 0

    def run(self) -> None:
        """Answer all prompts; each is handed to `heard` as soon as it has ended."""
        batch = self.batch
        with self.model.ready(), packed(self.model.model):
            batch.share(self._common())
            while self.waiting or batch.running:
                if self.waiting and batch.free >= max(batch.rows // PLACES_FREE, 1):
                    self._admit()
                if batch.running:
                    self._hear(batch.step())

    def _common(self) -> list[int]:
        """What all prompts begin with, such as a system message; at least one token of each is left."""
        if len(self.prompts) == 1:
            return []
        ends = zip(min(self.prompts), max(self.prompts), strict=False)  # in order, these two differ first
        common = sum(1 for _ in takewhile(lambda tokens: tokens[0] == tokens[1], ends))
        return self.prompts[0][: min(common, min(map(len, self.prompts)) - 1)]

    def _admit(self) -> None:
        """Questions take the free places, some at a time; the first token of each is chosen."""
        while count := self.batch.room(self.waiting):
            self._hear(self.batch.enter([self.waiting.popleft() for _ in range(count)]))

    def _hear(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.done += row.ended != "stop"
            if row.ended:
                own = row.answer
                self.done += self.limit - len(own)  # what it will not take
                times = (row.first - row.started, row.last - row.started)
                self.heard(row.asked.key, Ended(own, row.ended == "stop", *times))
        self.tell(self.done, len(self.prompts) * self.limit)
