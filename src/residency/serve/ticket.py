"""One request's answers as the server's event loop sees them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial

from starlette.requests import Request

from residency.decoding.choosing import Choosing
from residency.decoding.text import Pieces
from residency.serve.asked import Question
from residency.serve.engine import Event, Full, Job
from residency.serve.refused import Refused, broken
from residency.serve.served import Served
from residency.serve.wire import Sampling


class Ticket:
    """Jobs that were handed in together; `events` is what comes of them, each with the number of its answer."""

    def __init__(
        self, request: Request, served: Served, questions: Sequence[Question], wanted: Sampling, *, trim: bool
    ) -> None:
        self.served, self.questions = served, questions
        self.started = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._begun: set[int] = set()  # answers of which something was heard
        self._over: set[int] = set()
        self._lost = "gone"  # why those end that have not ended when this is closed
        self._news: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        prompt = served.model.prompt
        self.jobs = [
            Job(
                question.ids,
                question.limit,
                _choosing(served, wanted, choice),
                Pieces(prompt.tokenizer, wanted.stop, prompt if trim else None),
                partial(self._post, place * wanted.choices + choice),
            )
            for place, question in enumerate(questions)
            for choice in range(wanted.choices)
        ]
        served.engine.refuse_more(len(self.jobs))
        try:
            served.engine.submit(self.jobs)
        except Full as full:
            wait = {"Retry-After": str(full.seconds)}
            raise Refused(503, f"The server is busy: {full}.", "queue_full", headers=wait) from None
        self._watch = asyncio.create_task(self._until_gone(request))

    async def events(self, seconds: float) -> AsyncGenerator[tuple[int, Event], None]:
        """News until all answers have ended; what is not wanted any more when this is closed leaves its place.

        Raises:
            Refused: an answer failed, or they took more than so many seconds.
        """
        try:
            while len(self._over) < len(self.jobs):
                left = self.started + seconds - time.perf_counter()
                try:
                    place, event = await asyncio.wait_for(self._news.get(), max(left, 0))
                except asyncio.TimeoutError:
                    self._lost = "late"
                    raise _late(seconds) from None
                if event.ended == "fault":
                    self._lost = "fault"
                    raise broken()
                self._count(place, event.ended)
                yield place, event
        finally:
            self.close()

    def close(self) -> None:
        """Nobody waits for these any more."""
        self._watch.cancel()
        for place in set(range(len(self.jobs))) - self._over:
            self._count(place, self._lost)
        self.served.engine.cancel([job for job in self.jobs if not job.ended])

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._watch.done() and not self._watch.cancelled()

    def usage(self) -> dict[str, int]:
        """Tokens of each prompt once, and of all answers."""
        asked = sum(len(question.ids) for question in self.questions)
        answered = sum(job.tokens for job in self.jobs)
        return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}

    def _count(self, place: int, ended: str) -> None:
        meter, name, seconds = self.served.meter, self.served.name, time.perf_counter() - self.started
        if place not in self._begun and ended != self._lost:
            self._begun.add(place)
            meter.first(name, seconds)
        if ended:
            self._over.add(place)
            meter.whole(name, ended, seconds)

    def _post(self, place: int, event: Event) -> None:
        """Called in the engine's thread."""
        self._loop.call_soon_threadsafe(self._news.put_nowait, (place, event))

    async def _until_gone(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.served.engine.cancel([job for job in self.jobs if not job.ended])


def _choosing(served: Served, wanted: Sampling, choice: int) -> Choosing:
    """The run's own choosing, drawn from where that is asked for; several answers draw from seeds of their own."""
    own = served.model.choosing
    if not wanted.draws:
        return own
    heat = 1.0 if wanted.temperature is None else wanted.temperature
    seed = None if wanted.seed is None else f"{wanted.seed}/{choice}"
    return replace(own, temperature=heat, top_p=wanted.top_p or 1.0, seed=seed)


def _late(seconds: float) -> Refused:
    message = f"The answer took more than {seconds:g} seconds; ask for fewer tokens, or when the server is less busy."
    return Refused(504, message, "timeout", headers={"x-should-retry": "false"})
