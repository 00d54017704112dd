"""Answers in OpenAI's forms: whole, or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from starlette.responses import JSONResponse, Response, StreamingResponse

from residency.serve.refused import Refused
from residency.serve.ticket import Ticket

Kind = Literal["chat", "text"]
GONE = 499  # the status that nobody reads any more: the client has left
STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Form:
    """What every part of a response says of it."""

    kind: Kind
    model: str
    id: str
    created: int
    left_out: int

    @classmethod
    def of(cls, kind: Kind, ticket: Ticket) -> Form:
        """The form of a new response."""
        left = max(question.left_out for question in ticket.questions)
        head = "chatcmpl" if kind == "chat" else "cmpl"
        return cls(kind, ticket.served.name, f"{head}-{uuid.uuid4().hex}", int(time.time()), left)

    def head(self, *, chunk: bool) -> dict[str, Any]:
        """What a response or a part of a stream begins with."""
        kind = f"chat.completion{'.chunk' if chunk else ''}" if self.kind == "chat" else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def choice(self, place: int, text: str, ended: str) -> dict[str, Any]:
        """A whole answer."""
        rest = {"logprobs": None, "finish_reason": ended}
        if self.kind == "chat":
            return {"index": place, "message": {"role": "assistant", "content": text, "refusal": None}, **rest}
        return {"index": place, "text": text, **rest}

    def delta(self, place: int, text: str, ended: str | None, *, first: bool) -> dict[str, Any]:
        """A piece of an answer."""
        rest = {"logprobs": None, "finish_reason": ended or None}
        if self.kind == "text":
            return {"index": place, "text": text, **rest}
        role = {"role": "assistant", "content": ""} if first else {}
        return {"index": place, "delta": role | ({"content": text} if text else {}), **rest}

    @property
    def own(self) -> dict[str, Any]:
        """What only this server says."""
        return {"residency": {"turns_left_out": self.left_out}}


async def noticed(own: dict[str, Any], ticket: Ticket, texts: Sequence[str | None]) -> dict[str, Any]:
    """What only this server says, with the guard's notices under `guard`: of the question, or of it and its answers.

    Empty where a guard saw nothing, and not there where the run has none. Patterns over a long text take a while: in
    a thread of their own, so that other answers go on.
    """
    question, guard = ticket.questions[0], ticket.served.guard
    if guard is None or not question.text:
        return own

    def entries() -> list[dict[str, str]]:
        found = {n.rule: n for text in texts for n in guard.look(question.text, text, question.first)}
        return [notice.entry() for notice in found.values()]

    return {"residency": {**own["residency"], "guard": await asyncio.to_thread(entries)}}


async def whole(ticket: Ticket, kind: Kind, seconds: float) -> Response:
    """The response once all answers have ended."""
    form = Form.of(kind, ticket)
    texts, reasons = [""] * len(ticket.jobs), [""] * len(ticket.jobs)
    async with aclosing(ticket.events(seconds)) as events:
        async for place, event in events:
            texts[place] += event.text
            reasons[place] = event.ended
    if ticket.gone:
        return Response(status_code=GONE)
    choices = [form.choice(place, texts[place], reasons[place]) for place in range(len(texts))]
    own = await noticed(form.own, ticket, texts)
    return JSONResponse(form.head(chunk=False) | {"choices": choices, "usage": ticket.usage()} | own)


def streamed(ticket: Ticket, kind: Kind, seconds: float, usage: bool) -> Response:
    """The response piece by piece, as answers come."""
    parts = _parts(ticket, Form.of(kind, ticket), seconds, usage)
    return StreamingResponse(parts, media_type="text/event-stream", headers=STREAM)


async def _parts(ticket: Ticket, form: Form, seconds: float, usage: bool) -> AsyncIterator[bytes]:
    head = form.head(chunk=True)
    counts: dict[str, Any] = {"usage": None} if usage else {}
    begun: set[int] = set()
    texts, last = [""] * len(ticket.jobs), form.own
    left = len(texts)
    try:
        async with aclosing(ticket.events(seconds)) as events:
            async for place, event in events:
                if event.ended == "gone":
                    return
                first = place not in begun
                texts[place] += event.text
                said = {} if begun else await noticed(form.own, ticket, [None])
                begun.add(place)
                if event.text or first:
                    yield _event(head | {"choices": [form.delta(place, event.text, None, first=first)]} | counts | said)
                if event.ended:
                    left -= 1
                    last = last if left else await noticed(form.own, ticket, texts)
                    said = {} if left or "guard" not in last["residency"] else last
                    yield _event(head | {"choices": [form.delta(place, "", event.ended, first=False)]} | counts | said)
    except Refused as error:  # the status went out long ago
        yield _event(error.body())
        return
    if usage:
        yield _event(head | {"choices": [], "usage": ticket.usage()} | last)
    yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
