"""OpenAI's requests as far as they are understood here.

A field that OpenAI's clients send without a bearing on the answer is passed over. A field that asks for something that
is not done here is refused: an answer that looks like what was asked for and is not would be worse.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import TypedDict

from residency.errors import nearest
from residency.serve.refused import Refused, wrong

# Who asks, where it is filed, what it costs: nothing of the answer hangs on these.
HARMLESS = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
}
# Fields that may stand there with these values, which ask for nothing; what they ask for otherwise is not done here.
NOTHING: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
MOST_STOPS, LONGEST_STOP = 4, 200  # strings, characters
MOST_CHOICES = 128

Text = Annotated[str, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Switch = Annotated[bool, Field(strict=True)]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
StopsAsSent = Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None


def _stops(value: Any) -> Any:
    """A string or a list of them as a list."""
    found = [value] if isinstance(value, str) else ([] if value is None else value)
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        raise ValueError("a string or a list of strings, none of them empty, is expected")
    if len(found) > MOST_STOPS or any(len(one) > LONGEST_STOP for one in found):
        raise ValueError(f"at most {MOST_STOPS} strings of at most {LONGEST_STOP} characters are expected")
    return found


def _content(value: Any) -> Any:
    """A message's text; parts of text are joined."""
    if not isinstance(value, list):
        return value
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"this model reads text alone, and a part is of the type {kind}")
    return "".join(part["text"] for part in value)


class Wire(BaseModel):
    """What all of these are: nothing that is not known, and no guessing of types."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Part(TypedDict):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


ContentAsSent = str | list[Part]
EMPTY: list[dict[str, Any]] = [
    {"type": "null"},
    {"enum": [False, 0, ""]},
    {"type": "array", "maxItems": 0},
    {"type": "object", "maxProperties": 0},
]


def _as_sent_back(schema: dict[str, Any]) -> None:
    """A message may hold more, as long as nothing is in it, and the name of who speaks."""
    schema["properties"]["name"] = {"description": "passed over"}
    schema["additionalProperties"] = {"anyOf": EMPTY}


def _with_passed_over(schema: dict[str, Any]) -> None:
    """Fields that may stand in a request without a bearing on the answer."""
    schema["properties"] |= {name: {"description": "passed over"} for name in sorted(HARMLESS)}
    for name, values in NOTHING.items():
        allowed = [{"type": "null"}, *({"const": value} for value in values)]
        schema["properties"][name] = {"anyOf": allowed, "description": "not done here"}


class Message(Wire):
    """One message of a conversation."""

    model_config = ConfigDict(json_schema_extra=_as_sent_back)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_content, json_schema_input_type=ContentAsSent)]

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, raw: Any) -> Any:
        """Clients send back what they were sent, with fields that are null or empty."""
        if not isinstance(raw, dict):
            return raw
        known = {"role", "content"}
        return {name: value for name, value in raw.items() if name in known or (value and name != "name")}


class StreamOptions(Wire):
    """What a stream holds besides the text."""

    include_usage: Switch = False
    include_obfuscation: Switch | None = None  # against onlookers who count bytes; this stream has none


class Sampling(Wire):
    """What both kinds of request have."""

    model_config = ConfigDict(json_schema_extra=_with_passed_over)

    model: Text
    stream: Switch | None = None
    stream_options: StreamOptions | None = None
    stop: Annotated[list[str], BeforeValidator(_stops, json_schema_input_type=StopsAsSent)] = []
    seed: Whole | None = None
    temperature: float | None = Field(None, strict=True, ge=0, le=2)
    top_p: float | None = Field(None, strict=True, gt=0, le=1)
    n: Whole | None = Field(None, ge=1, le=MOST_CHOICES)
    max_tokens: Whole | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _holds(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams: set stream to true, or leave it out")
        if self.choices > 1 and not self.draws:
            raise ValueError(
                "n asks for several answers, and without temperature or top_p the model gives the same one each time"
            )
        return self

    @property
    def choices(self) -> int:
        """Answers that are wanted of each prompt."""
        return self.n or 1

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn: a temperature above 0, or the share of the likeliest to draw from."""
        return bool(self.temperature) or (self.temperature is None and self.top_p is not None)

    @property
    def usage_in_stream(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Sampling):
    """The body of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Whole | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError("max_tokens and max_completion_tokens are two names of one limit, and differ")
        return self

    @property
    def limit(self) -> int | None:
        """The longest answer, in tokens."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Sampling):
    """The body of /v1/completions."""

    prompt: Text | list[Text] | list[Whole] | list[list[Whole]]

    @property
    def limit(self) -> int:
        """The longest answer, in tokens; OpenAI's default."""
        return self.max_tokens or 16

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]


R = TypeVar("R", bound=Sampling)


def read(kind: type[R], raw: Any) -> R:
    """A request out of its parsed JSON.

    Raises:
        Refused: it is no object, a field is unknown or wrong, or asks for what is not done here.
    """
    if not isinstance(raw, dict):
        raise wrong("The body is no JSON object.", code="invalid_json")
    try:
        json.dumps(raw, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise wrong("The body holds half a character (a lone surrogate).", code="invalid_json") from None
    kept = {name: value for name, value in raw.items() if name not in HARMLESS}
    for name in NOTHING.keys() & kept.keys():
        value = kept.pop(name)
        if value is not None and not any(_same(value, none) for none in NOTHING[name]):
            raise wrong(f"{name} is not supported by this server: leave it out.", name, "unsupported_parameter")
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        raise _told(error, kind) from None


def _same(value: Any, other: Any) -> bool:
    """Whether they are equal; to Python, false is 0."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _told(error: ValidationError, kind: type[Sampling]) -> Refused:
    """The first fault of a request in a line."""
    faults = error.errors()
    first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    names = [str(part)[:50] for part in first["loc"] if not {"[", "("} & set(str(part))]  # pydantic names kinds, too
    place = "".join(f"[{name}]" if name.isdigit() else f".{name}" for name in names).lstrip(".")
    if first["loc"][:1] == ("prompt",):
        expected = "a string, a list of strings, or tokens as numbers are expected"
        return wrong(f"prompt: {expected}.", "prompt", "invalid_type")
    if first["type"] == "extra_forbidden":
        known = nearest(names[-1], kind.model_fields) if len(names) == 1 else ""
        told = f"{place or 'A field'} is not understood by this server; {known or 'leave it out.'}"
        return wrong(told, place or None, "unknown_parameter")
    if first["type"] == "missing":
        return wrong(f"{place} is missing.", place, "missing_required_parameter")
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    return wrong(f"{place}: {message}" if place else message, place or None, "invalid_value")
