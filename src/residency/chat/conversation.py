"""What was said so far, and how much of it a model can still take in."""

from __future__ import annotations

from dataclasses import dataclass, field

from residency.errors import UserError
from residency.prompts import Before, Prompt

ANSWER_SHARE = 0.25  # of the window is kept free for the answer, at most


@dataclass
class Conversation:
    """Questions and answers, oldest first, and the system message before them."""

    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)

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

    def messages(self) -> list[dict[str, str]]:
        """The whole of it in OpenAI's form, which `residency init --data` reads."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.turns:
            found += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return found
