"""A visitor's question, answered by both of the models that are served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing

from starlette.requests import Request

from residency.serve import asked
from residency.serve.answers import GONE
from residency.serve.pages.routes import Live
from residency.serve.refused import Refused
from residency.serve.served import Served, Service
from residency.serve.ticket import Ticket
from residency.serve.wire import ChatRequest, Message


def live(service: Service, seconds: float) -> Live | None:
    """What answers a question by the tuned model and by its base; None where only one of them is served."""
    roles = {one.model.name: one for one in service.models.values()}
    if len(roles) < 2:
        return None

    async def answers(question: str, request: Request) -> Mapping[str, str]:
        tickets: list[Ticket] = []
        try:
            for served in roles.values():
                tickets.append(await _ticket(served, question, request))
            texts = await asyncio.gather(*(_whole(ticket, seconds) for ticket in tickets))
        finally:
            for ticket in tickets:
                ticket.close()
        return dict(zip(roles, texts, strict=True))

    return answers


async def _ticket(served: Served, question: str, request: Request) -> Ticket:
    wanted = ChatRequest(model=served.name, messages=[Message(role="user", content=question)])
    prompt = await asyncio.to_thread(asked.conversation, wanted.messages, served.model, served.limit)
    return Ticket(request, served, [prompt], wanted, trim=True)


async def _whole(ticket: Ticket, seconds: float) -> str:
    """The answer's text.

    Raises:
        Refused: it failed or took too long, or nobody waits for it any more.
    """
    text = ""
    async with aclosing(ticket.events(seconds)) as events:
        async for _, event in events:
            text += event.text
    if ticket.gone:
        raise Refused(GONE, "The client has left.")
    return text
