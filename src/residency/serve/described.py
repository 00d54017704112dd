"""The server's OpenAPI document, at /openapi.json: what may be asked, what is answered, what an error looks like.

Requests are read by `wire`, whose models are shown here as they are; the models of answers describe what `answers` and
`refused` make, and tests/serve/test_described.py holds the two against each other.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

from residency.serve.settings import Settings
from residency.serve.wire import ChatRequest, CompletionRequest

SCHEMAS = "#/components/schemas/{model}"
UNUSED = ("HTTPValidationError", "ValidationError")  # FastAPI's own; bodies are read by hand and give a 400
ABOUT = "A run's model behind OpenAI's interface. What it does not do is refused by name; see docs/serve.md."


class Shown(BaseModel):
    """An object with just these fields."""

    model_config = ConfigDict(extra="forbid")


class Fault(Shown):
    """What is wrong: a sentence, whose fault it is, which field, and a word for programs."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class Error(Shown):
    """OpenAI's error object."""

    error: Fault


class Role(Shown):
    """What a model is to the run, the tokens that it takes in, and those of an answer where a client says nothing."""

    role: str
    window: int
    max_tokens: int


class Model(Shown):
    """A model that can be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["residency"]
    residency: Role


class Models(Shown):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Notice(BaseModel):
    """What a rule of the guard says beside an answer."""

    rule: str
    notice: str


class Own(BaseModel):
    """What only this server says: how many of the oldest turns did not fit, and the guard's notices, where it is on."""

    turns_left_out: int = Field(ge=0)
    guard: list[Notice] | None = None


class Usage(Shown):
    """Tokens."""

    prompt_tokens: int = Field(ge=1)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=1)


class Answer(Shown):
    """A model's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Shown):
    """One answer, and whether it ended by itself (stop) or at the limit (length)."""

    index: int
    message: Answer
    logprobs: None
    finish_reason: Literal["stop", "length"]


class TextChoice(Shown):
    """How a text goes on."""

    index: int
    text: str
    logprobs: None
    finish_reason: Literal["stop", "length"]


class Response(Shown):
    """What both kinds of answer have."""

    id: str
    created: int
    model: str
    usage: Usage
    residency: Own


class ChatCompletion(Response):
    """The answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Completion(Response):
    """How texts go on."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class Health(Shown):
    """Whether the thread in which models answer is alive."""

    status: str


def _errors(**by_status: str) -> dict[int | str, dict[str, Any]]:
    common = {"403": "The request comes from a page of another origin."}
    told = {**common, **{status.removeprefix("s"): text for status, text in by_status.items()}}
    return {int(status): {"model": Error, "description": text} for status, text in sorted(told.items())}


def _asked(answer: type[BaseModel], request: str, streamed: str) -> dict[str, Any]:
    """What FastAPI is told of a route that answers."""
    event = {
        "type": "object",
        "properties": {"data": {"type": "string", "description": streamed}},
        "required": ["data"],
    }
    stream = {"text/event-stream": {"itemSchema": event}}
    return {
        "responses": {
            200: {"model": answer, "content": stream, "description": "The answers; with `stream`, piece by piece."},
            **_errors(
                s400="No JSON, or a field is wrong, unknown or asks for what is not done here; `param` names it.",
                s404="There is no model of this name.",
                s408="The body took too long to come.",
                s413="The body is too large.",
                s500="A fault of the server; its log says more.",
                s503="No place to wait; `Retry-After` says when there may be one.",
                s504="The answer took too long.",
            ),
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": SCHEMAS.format(model=request)}}},
            }
        },
    }


CHAT = _asked(ChatCompletion, "ChatRequest", "chat.completion.chunk objects as server-sent events, ended by [DONE]")
TEXT = _asked(Completion, "CompletionRequest", "text_completion objects as server-sent events, ended by [DONE]")
MODELS: dict[str, Any] = {"responses": {200: {"model": Models}, **_errors()}}
MODEL: dict[str, Any] = {"responses": {200: {"model": Model}, **_errors(s404="There is no model of this name.")}}
HEALTH: dict[str, Any] = {"responses": {200: {"model": Health}, 503: {"model": Health}, **_errors()}}
NUMBERS = {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Numbers for Prometheus."}
METRICS: dict[str, Any] = {"responses": {200: NUMBERS, **_errors()}}


def describe(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The document of an application; with a token, every path but /healthz names it."""
    found = get_openapi(title="Residency", version=_version(), description=ABOUT, routes=app.routes)
    schemas = found["components"]["schemas"]
    for request in (ChatRequest, CompletionRequest):
        schema = request.model_json_schema(ref_template=SCHEMAS)
        schemas |= schema.pop("$defs", {})
        schemas[request.__name__] = schema
    for name in UNUSED:
        schemas.pop(name, None)
    for operations in found["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    if settings.token is not None:
        _with_token(found)
    return found


def _with_token(found: dict[str, Any]) -> None:
    found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    missing = {"description": "The token is missing, or another one."}
    error = {"application/json": {"schema": {"$ref": SCHEMAS.format(model=Error.__name__)}}}
    for path, operations in found["paths"].items():
        for operation in operations.values() if path != "/healthz" else ():
            operation["security"] = [{"token": []}]
            operation["responses"]["401"] = missing | {"content": error}


def _version() -> str:
    try:
        return version("residency")
    except PackageNotFoundError:  # imported from a folder that was never installed
        return "0"
