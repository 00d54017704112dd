"""What was said so far, and how much of it a model can still take in."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

from residency.errors import UserError
from residency.prompts import Before, Prompt

ANSWER_SHARE = 0.25  # of the window is kept free for the answer, at most


class TooLong(UserError):
    """A question that leaves no room for its answer, in tokens."""

    def __init__(self, tokens: int, room: int) -> None:
        super().__init__(f"this question has {tokens:,} tokens", f"at most {room:,}", "ask it in fewer words")
        self.tokens, self.room = tokens, room


@dataclass
class Conversation:
    """Questions and answers, oldest first, with the notices of each; and the system message before them."""

    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)
    notices: list[list[dict[str, str]]] = field(default_factory=list)

    def add(self, question: str, answer: str, notices: list[dict[str, str]]) -> None:
        """One more turn, and what the guard said of it."""
        self.turns.append((question, answer))
        self.notices.append(notices)

    def forget(self, count: int) -> None:
        """The oldest turns leave."""
        del self.turns[:count], self.notices[:count]

    def before(self, question: str, prompt: Prompt, window: int, max_new_tokens: int) -> tuple[Before, int]:
        """What may stand before a question so that its answer has room, and how many of the oldest turns leave for it.

        Raises:
            TooLong: the question alone is too long.
        """
        room = window - min(max_new_tokens, max(1, int(ANSWER_SHARE * window)))

        def without(left: int) -> Before:
            return Before(self.system, tuple(self.turns[left:]))

        def tokens(left: int) -> int:
            return len(prompt.prompt_ids(question, without(left)))

        if (alone := tokens(len(self.turns))) > room:
            raise TooLong(alone, room)
        left = bisect_left(range(len(self.turns)), True, key=lambda left: tokens(left) <= room)
        return without(left), left

    def messages(self) -> list[dict[str, Any]]:
        """The whole of it in OpenAI's form, which `residency init --data` reads; an answer's notices under `guard`."""
        found: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for place, (question, answer) in enumerate(self.turns):
            notices = self.notices[place] if place < len(self.notices) else []
            noted = {"guard": notices} if notices else {}
            found += [{"role": "user", "content": question}, {"role": "assistant", "content": answer} | noted]
        return found
