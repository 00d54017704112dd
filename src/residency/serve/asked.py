"""From a request to prompts in tokens, as the model was trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from residency.conversation import Conversation, TooLong
from residency.decoding.choosing import Choosing
from residency.errors import UserError
from residency.prompts import Prompt
from residency.serve.refused import Refused, wrong
from residency.serve.wire import Message


@dataclass(frozen=True)
class Question:
    """A prompt in tokens, the longest answer that fits behind it, and how many of the oldest turns were left out.

    Of a conversation, what is asked, for the guard; a prompt that stands as it is has no question.
    """

    ids: list[int]
    limit: int
    left_out: int = 0
    text: str = ""  # of the last message
    first: bool = False  # nothing was answered before it


class Speaker(Protocol):
    """What is known here of a model that answers, wherever its weights are; as `decoding.chosen.Chosen` has it."""

    @property
    def name(self) -> str:
        """What it is to the run: tuned or base."""

    @property
    def prompt(self) -> Prompt:
        """Its way from a dialogue to tokens."""

    @property
    def choosing(self) -> Choosing:
        """How its next token is chosen where a request says nothing."""

    @property
    def window(self) -> int:
        """The tokens that prompt and answer may have together."""

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""


def conversation(messages: Sequence[Message], model: Speaker, limit: int) -> Question:
    """The prompt of a conversation, whose last message is the question.

    Raises:
        Refused: the messages are in an order that the template has no place for, one of them is empty or holds a mark
            of the template, or the question alone is longer than the window.
    """
    _without_marks(messages, model.prompt)
    said, question = _turns(messages)
    try:
        before, left = said.before(question, model.prompt, model.window, limit)
        ids = model.prompt.prompt_ids(question, before)
    except TooLong as error:
        raise _too_long(f"The last message has {error.tokens:,} tokens", error.room, model, "messages") from None
    except UserError as error:  # the template refuses it
        raise wrong(str(error), "messages") from None
    return Question(ids, min(limit, model.window - len(ids)), left, question, first=not said.turns)


def plain(prompt: str | list[int], model: Speaker, limit: int) -> Question:
    """A prompt that stands as it is, without a template.

    Raises:
        Refused: it is empty, holds tokens that the model hasn't, or leaves no room for an answer.
    """
    ids = prompt if isinstance(prompt, list) else _tokens(prompt, model.prompt.tokenizer)
    if not ids:
        raise wrong("prompt has no token.", "prompt", "empty_prompt")
    if not all(0 <= token < model.vocabulary for token in ids):
        raise wrong(f"prompt: tokens from 0 to {model.vocabulary - 1:,} are expected.", "prompt", "invalid_token")
    if len(ids) >= model.window:
        raise _too_long(f"This prompt has {len(ids):,} tokens", model.window - 1, model, "prompt")
    return Question(ids, min(limit, model.window - len(ids)))


def _turns(messages: Sequence[Message]) -> tuple[Conversation, str]:
    """What was said, and the question. Messages of one role that follow on each other are one, with a line between."""
    said: list[tuple[str, str]] = []
    for place, message in enumerate(messages):
        role, text = message.role.replace("developer", "system"), message.content.strip()
        if role == "system" and said and said[-1][0] != "system":
            raise wrong(f"messages[{place}] is a system message: these stand first.", f"messages[{place}].role")
        if not text and role != "system":
            raise wrong(f"messages[{place}] has no text.", f"messages[{place}].content")
        if said and said[-1][0] == role:
            said[-1] = (role, f"{said[-1][1]}\n\n{text}")
        else:
            said.append((role, text))
    system = said.pop(0)[1] if said[0][0] == "system" else ""
    if not said or said[0][0] != "user" or said[-1][0] != "user":
        where = f"messages[{len(messages) - 1}]" if said and said[0][0] == "user" else "messages"
        raise wrong("After system messages, messages begin and end with one of the role user.", where)
    texts = [text for _, text in said]
    return Conversation(system, list(zip(texts[:-1:2], texts[1::2], strict=True))), texts[-1]


def _without_marks(messages: Sequence[Message], prompt: Prompt) -> None:
    """A message that holds a mark of the template could put words into other mouths."""
    for place, message in enumerate(messages):
        held = next((mark for mark in prompt.special_tokens if mark in message.content), None)
        if held:
            raise wrong(
                f"messages[{place}] holds {held}, which the model reads as the end or the beginning of a message.",
                f"messages[{place}].content",
                "special_token",
            )


def _too_long(what: str, room: int, model: Speaker, param: str) -> Refused:
    told = f"{what}, and at most {room:,} leave room for an answer: the model takes in {model.window:,} in all."
    return wrong(told, param, "context_length_exceeded")


def _tokens(text: str, tokenizer: Any) -> list[int]:
    """A text in tokens, without the end that some tokenizers add."""
    ids = list(tokenizer(text)["input_ids"])
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids.pop()
    return ids
