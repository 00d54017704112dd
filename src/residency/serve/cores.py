"""How a model goes on by a token: with many answers at once, or one by one where it can't."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from residency.decoding import alone
from residency.decoding.batch import Asked, Batch, Row
from residency.decoding.body import Body
from residency.decoding.chosen import Chosen
from residency.decoding.packed import packed

if TYPE_CHECKING:
    from residency.serve.engine import Job


log = logging.getLogger("residency.serve")
MEMORY = 0.5  # of what is free may go to the keys and values of all answers


def row_bytes(config: Any, window: int, size: int) -> int:
    """Bytes of one answer's keys and values, as long as the window, in numbers of `size` bytes."""
    config = config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * window * size)


class Desk(Protocol):
    """Where a core gets its jobs from and tells of them: the engine."""

    def next(self, room: Callable[[Iterable[Asked]], int]) -> list[Job]:
        """The first of those that wait, as many as `room` says of them."""

    def heard(self, job: Job, token: int | None, ended: str) -> None:
        """A token of an answer, or its end."""


class Lost(Exception):
    """What a core works in is gone, and no answer can come from it any more; says what."""


class Core(Protocol):
    """A model at work, in the engine's thread; `running` are the answers that are on their way."""

    rows: int
    running: list[Job]

    def opened(self) -> AbstractContextManager[None]:
        """What its work has to stand in."""

    def turn(self, desk: Desk) -> None:
        """Go on by a token, or by an answer where there is no other way.

        Raises:
            Lost: it can't, and never will again.
        """

    def drop(self) -> None:
        """End all that runs with a fault, and be as new."""


class Together:
    """Answers side by side. A new one enters as soon as a place is free; one that is cancelled leaves at once."""

    def __init__(self, body: Body, model: Chosen, rows: int, shared: list[int]) -> None:
        self.body, self.model, self.rows, self.shared = body, model, rows, shared
        self.running: list[Job] = []
        self.batch = self._new()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Masks as the batch makes them, weights packed, and the beginning that prompts share computed."""
        with self.body.ready(), packed(self.body.model):
            self.batch.share(self.shared)
            yield

    def turn(self, desk: Desk) -> None:
        """Let new ones in, and go on by a token."""
        for row in [row for row in self.batch.running if row.asked.key.over]:
            self._leave(row, "gone")
        while jobs := desk.next(self.batch.room):
            self._enter(desk, jobs)
        if self.batch.running:
            self._hear(desk, self.batch.step())

    def drop(self) -> None:
        """End all that runs, and begin with an empty batch: nobody knows what a broken step has left in it."""
        jobs, self.running = self.running, []
        for job in jobs:
            job.end("fault")
        self.batch = self._new()
        self.batch.share(self.shared)

    def _new(self) -> Batch:
        return Batch(self.body, rows=self.rows, columns=self.model.window, stops=self.model.prompt.stop_ids)

    def _enter(self, desk: Desk, jobs: Sequence[Job]) -> None:
        """Where one of several breaks the model's pass, the others get in without it."""
        try:
            rows = self.batch.enter([job.asked for job in jobs])
        except Exception:
            if len(jobs) == 1:
                log.exception("a prompt")
                jobs[0].end("fault")
                self.running.remove(jobs[0])
                return
            for job in jobs:
                self._enter(desk, [job])
            return
        self._hear(desk, rows)

    def _hear(self, desk: Desk, rows: Sequence[Row]) -> None:
        for row in rows:
            job = row.asked.key
            if row.faulty:
                job.end("fault")
            else:
                desk.heard(job, None if row.ended == "stop" else row.ids[-1], row.ended)
            if row.ended:
                self.running.remove(job)
            elif job.over:
                self._leave(row, "gone")

    def _leave(self, row: Row, why: str) -> None:
        self.batch.leave(row)
        self.running.remove(row.asked.key)
        row.asked.key.end(why)


class Apart:
    """One answer after the other, by transformers' `generate`."""

    def __init__(self, model: Chosen) -> None:
        self.model, self.rows = model, 1
        self.running: list[Job] = []

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Nothing to prepare."""
        yield

    def turn(self, desk: Desk) -> None:
        """One whole answer."""
        for job in desk.next(lambda waiting: min(len(list(waiting)), 1)):
            self._answer(desk, job)
            job.end("gone")  # where it has not ended: it was cancelled
        self.running.clear()

    def drop(self) -> None:
        """End what runs."""
        jobs, self.running = self.running, []
        for job in jobs:
            job.end("fault")

    def _answer(self, desk: Desk, job: Job) -> None:
        stops = frozenset(self.model.prompt.stop_ids)
        seen = 0

        def heard(token: int) -> bool:
            nonlocal seen
            seen += 1
            stopped = token in stops
            ended = "stop" if stopped else "limit" if seen == job.asked.limit else ""
            desk.heard(job, None if stopped else token, ended)
            return not job.over

        alone.answer(
            self.model.model,
            job.asked.ids,
            job.asked.choosing,
            limit=job.asked.limit,
            stops=stops,
            pad_id=self.model.pad_id,
            heard=heard,
        )
