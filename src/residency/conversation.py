"""What was said so far, and how much of it a model can still take in."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

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
    """Questions and answers, oldest first, and the system message before them."""

    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)

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

    def messages(self) -> list[dict[str, str]]:
        """The whole of it in OpenAI's form, which `residency init --data` reads."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.turns:
            found += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return found
