"""The web application: routes, and what stands before them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from residency.serve import asked, described
from residency.serve.answers import GONE, Kind, streamed, whole
from residency.serve.asked import Question
from residency.serve.door import Counted, Door
from residency.serve.refused import Refused, fault, http_error, refused, wrong
from residency.serve.served import Served, Service
from residency.serve.settings import Settings
from residency.serve.ticket import Ticket
from residency.serve.wire import ChatRequest, CompletionRequest, Sampling, read


def create_app(service: Service, settings: Settings, routers: Sequence[APIRouter] = ()) -> FastAPI:
    """The application that answers for a service; `routers` are further pages, behind the same door.

    Its lifespan starts the service's worker and stops it.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.stop)

    # Without pages about itself, which would fetch scripts from elsewhere; bodies are read by hand, and described so.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, fault)
    app.include_router(_Api(service, settings).router)
    for router in routers:
        app.include_router(router)
    document = described.describe(app, settings)
    app.openapi = lambda: document  # type: ignore[method-assign]
    # The last one added is the first that a request meets.
    app.add_middleware(Door, settings=settings)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.answered, www_redirect=False)
    app.add_middleware(Counted, meter=service.meter)
    return app


class _Api:
    """OpenAI's routes, health and numbers."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service, self.settings = service, settings
        self.router = APIRouter()
        add = self.router.add_api_route
        add("/v1/models", self.models, methods=["GET"], **described.MODELS)
        add("/v1/models/{name:path}", self.model, methods=["GET"], **described.MODEL)
        add("/v1/chat/completions", self.chat, methods=["POST"], **described.CHAT)
        add("/v1/completions", self.complete, methods=["POST"], **described.TEXT)
        add("/healthz", self.health, methods=["GET"], **described.HEALTH)
        add("/metrics", self.metrics, methods=["GET"], **described.METRICS)

    async def models(self) -> Response:
        """The models that can be asked."""
        data = [one.described() for one in self.service.models.values()]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, name: str) -> Response:
        """One of them."""
        return JSONResponse(self.service.model(name).described())

    async def chat(self, request: Request) -> Response:
        """An answer to a conversation, in the run's template."""
        wanted = read(ChatRequest, await _json(request))
        served = self.service.model(wanted.model)
        limit = wanted.limit or served.limit
        question = await asyncio.to_thread(asked.conversation, wanted.messages, served.model, limit)
        return await self._answer(request, served, [question], wanted, "chat")

    async def complete(self, request: Request) -> Response:
        """How texts go on, as they stand."""
        wanted = read(CompletionRequest, await _json(request))
        served = self.service.model(wanted.model)
        if not wanted.prompts:
            raise wrong("prompt is an empty list.", "prompt")
        served.engine.refuse_more(len(wanted.prompts) * wanted.choices)  # before they are read, which takes a while
        questions = [await asyncio.to_thread(asked.plain, one, served.model, wanted.limit) for one in wanted.prompts]
        return await self._answer(request, served, questions, wanted, "text")

    async def health(self) -> Response:
        """Whether the thread in which models answer is alive."""
        alive = self.service.worker.alive
        return JSONResponse({"status": "ok" if alive else "the models have stopped"}, 200 if alive else 503)

    async def metrics(self) -> Response:
        """Numbers for Prometheus."""
        return Response(self.service.meter.page(), media_type=CONTENT_TYPE_LATEST)

    async def _answer(
        self, request: Request, served: Served, questions: Sequence[Question], wanted: Sampling, kind: Kind
    ) -> Response:
        ticket = Ticket(request, served, questions, wanted, trim=kind == "chat")
        if wanted.stream:
            return streamed(ticket, kind, self.settings.seconds, wanted.usage_in_stream)
        return await whole(ticket, kind, self.settings.seconds)


async def _json(request: Request) -> Any:
    """The request's body.

    Raises:
        Refused: it is no JSON, or the client left before it was whole.
    """
    try:
        body = await request.body()
    except ClientDisconnect:
        raise Refused(GONE, "The client has left.") from None
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, json.JSONDecodeError) else "it can't be read"
        raise wrong(f"The body is no JSON: {why}.", code="invalid_json") from None
