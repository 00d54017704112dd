"""What was said so far, and how much of it a model can still take in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from residency.errors import UserError
from residency.prompts import Before, Prompt

ANSWER_SHARE = 0.25  # of the window is kept free for the answer, at most


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
            UserError: the question alone is too long.
        """
        room = window - min(max_new_tokens, max(1, int(ANSWER_SHARE * window)))
        for left in range(len(self.turns) + 1):
            found = Before(self.system, tuple(self.turns[left:]))
            if len(prompt.prompt_ids(question, found)) <= room:
                return found, left
        alone = len(prompt.prompt_ids(question, Before(self.system)))
        raise UserError(f"this question has {alone:,} tokens", f"at most {room:,}", "ask it in fewer words")

    def messages(self) -> list[dict[str, Any]]:
        """The whole of it in OpenAI's form, which `residency init --data` reads; an answer's notices under `guard`."""
        found: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for place, (question, answer) in enumerate(self.turns):
            notices = self.notices[place] if place < len(self.notices) else []
            noted = {"guard": notices} if notices else {}
            found += [{"role": "user", "content": question}, {"role": "assistant", "content": answer} | noted]
        return found
