"""The thread in which models answer, and the queue before it.

Whoever asks lives in another thread (the server's event loop) and only passes messages: `submit` and `cancel` in, and
what `Job.heard` is told out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from residency import environment
from residency.decoding.batch import Asked
from residency.decoding.choosing import Choosing
from residency.decoding.text import Pieces
from residency.serve.cores import Core, Lost
from residency.serve.refused import Refused

log = logging.getLogger("residency.serve")
IDLE = 5.0  # seconds without work after which freed memory is given back


@dataclass(frozen=True)
class Event:
    """News of an answer: text that is certain now, its tokens so far, and why it ended, where it did.

    `ended` is stop, length, gone (nobody wants it any more) or fault.
    """

    text: str
    tokens: int
    ended: str = ""


@dataclass(eq=False)
class Job:
    """One answer that is wanted. All but `cancelled` is the engine's."""

    ids: list[int]
    limit: int
    choosing: Choosing
    pieces: Pieces
    heard: Callable[[Event], None]
    cancelled: bool = False
    tokens: int = 0
    ended: str = ""
    since: float = 0.0  # when it waited no more
    asked: Asked = field(init=False)

    def __post_init__(self) -> None:
        self.asked = Asked(self.ids, self.limit, self.choosing, self)

    @property
    def over(self) -> bool:
        """Whether it needs no place any more."""
        return bool(self.ended) or self.cancelled

    def take(self, token: int | None, ended: str) -> None:
        """One more token, or none where it was one that ends answers; `ended` as in `decoding.batch.Row`."""
        text = ""
        if token is not None:
            self.tokens += 1
            text = self.pieces.add(token)
        if ended or self.pieces.stopped:
            self.end("length" if ended == "limit" else "stop", text)
        else:
            self._tell(Event(text, self.tokens))

    def end(self, why: str, text: str = "") -> None:
        """Nothing comes any more; told once."""
        if self.ended:
            return
        if why in ("stop", "length"):
            text += self.pieces.end()
            why = "stop" if self.pieces.stopped else why  # the rest may hold a stop string
        self.ended = why
        self._tell(Event(text, self.tokens, why))

    def _tell(self, event: Event) -> None:
        try:
            self.heard(event)
        except RuntimeError:  # whoever asked has closed its event loop
            self.cancelled = True


class Full(Exception):
    """No place to wait; `seconds` is when there may be one."""

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(f"{waiting} answers wait already")
        self.seconds = seconds


class Engine:
    """One model's answers: those that run, in its core, and those that wait."""

    def __init__(self, core: Core, queue: int) -> None:
        self.core, self.queue = core, queue
        self.waiting: deque[Job] = deque()
        self.lock = threading.Lock()
        self.wake: Callable[[], None] = lambda: None
        self.tokens = 0  # all that were generated
        self.closed = False
        self.cut = 0  # answers that a stop has cut off
        self.mean = 1.0  # seconds that an answer takes, about

    @property
    def capacity(self) -> int:
        """Answers that may run and wait together."""
        return self.core.rows + self.queue

    @property
    def busy(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.waiting or self.core.running)

    def refuse_more(self, answers: int) -> None:
        """Nothing, where a request for so many answers could ever be taken.

        Raises:
            Refused: it could not.
        """
        if answers > self.capacity:
            most = f"{self.capacity} answers is the most that this server takes at once"
            raise Refused(400, f"This request asks for {answers} answers, and {most}.", "too_many_answers", "n")

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have these answered, all of them.

        Raises:
            Full: there is no room for them.
        """
        with self.lock:
            if self.closed or len(self.waiting) + len(self.core.running) + len(jobs) > self.capacity:
                rounds = (len(self.waiting) + len(jobs)) / self.core.rows
                raise Full(len(self.waiting), min(max(round(rounds * self.mean), 1), 60))
            self.waiting.extend(jobs)
        self.wake()

    def cancel(self, jobs: Iterable[Job]) -> None:
        """These are not wanted any more: those that wait leave at once, those that run before their next token."""
        for job in jobs:
            with self.lock:
                job.cancelled = True
                waits = job in self.waiting
                if waits:
                    self.waiting.remove(job)
            if waits:
                job.end("gone")
        self.wake()

    def next(self, room: Callable[[Iterable[Asked]], int]) -> list[Job]:
        """The first of those that wait, as many as `room` says of them; they run from now on."""
        with self.lock:
            count = room(job.asked for job in self.waiting)
            jobs = [self.waiting.popleft() for _ in range(count)]
            self.core.running += jobs
        for job in jobs:
            job.since = time.perf_counter()
        return jobs

    def heard(self, job: Job, token: int | None, ended: str) -> None:
        """A token of an answer. A fault in its text is its own, and ends it alone."""
        self.tokens += token is not None
        try:
            job.take(token, ended)
        except Exception:
            log.exception("an answer's text")
            job.end("fault")
        if job.ended in ("stop", "length"):
            self.mean += 0.1 * (time.perf_counter() - job.since - self.mean)

    def turn(self) -> None:
        """Go on by one token. A fault ends the answers that ran, and no others.

        Raises:
            Lost: no answer can come any more.
        """
        try:
            self.core.turn(self)
        except Lost:
            raise
        except Exception:
            log.exception("a step of the model")
            self.core.drop()

    def close(self) -> None:
        """End all that runs and waits."""
        with self.lock:
            self.closed = True
            jobs = list(self.waiting)
            self.waiting.clear()
        self.cut = len(jobs) + len(self.core.running)
        for job in jobs:
            job.end("fault")
        self.core.drop()


class Worker:
    """The one thread in which all models work, a turn each: two at once would only take the cores from each other."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = engines
        self.condition = threading.Condition()
        self.stopping = False
        self.thread: threading.Thread | None = None
        for engine in engines:
            engine.wake = self._wake

    def start(self) -> None:
        """Begin to answer."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, name="residency-models", daemon=True)
            self.thread.start()

    @property
    def alive(self) -> bool:
        """Whether answers can come."""
        return self.thread is not None and self.thread.is_alive()

    def stop(self, seconds: float = 10.0) -> None:
        """Stop; what runs still ends in a fault."""
        self.stopping = True
        self._wake()
        if self.thread is not None:
            self.thread.join(seconds)

    def _wake(self) -> None:
        with self.condition:
            self.condition.notify()

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                for engine in self.engines:
                    stack.enter_context(engine.core.opened())
                while self._work():
                    for engine in self.engines:
                        if engine.busy:
                            engine.turn()
        except Lost as error:
            log.error("%s", error)
        finally:
            for engine in self.engines:
                engine.close()

    def _work(self) -> bool:
        """Wait until there is something to do; False where the server stops."""

        def due() -> bool:
            return self.stopping or any(engine.busy for engine in self.engines)

        with self.condition:
            soon = self.condition.wait_for(due, IDLE)
        if not soon:
            environment.give_back_memory()
            with self.condition:
                self.condition.wait_for(due)
        return not self.stopping
