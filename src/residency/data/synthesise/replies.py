"""A model's replies, kept in a file as they come: what was answered before a failure is not asked again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from residency import jsonl
from residency.data.synthesise.model import Ask


class Replies:
    """Replies by prompt, and by `who` was asked, in a JSONL file that grows by a line a reply.

    `public` makes of a reply what may be written down.
    """

    def __init__(self, file: Path, who: str, public: Callable[[str], str] = str) -> None:
        self.file, self.who, self.public = file, who, public
        self.lock = threading.Lock()  # an endpoint's replies come from several threads
        self.known = {row["prompt"]: str(row["reply"]) for row in jsonl.rows(file) if {"prompt", "reply"} <= row.keys()}

    def keep(self, prompt: str, reply: str) -> None:
        """Remember a reply, on the disk as well."""
        key = self._key(prompt)
        with self.lock:
            if key in self.known:
                return
            self.known[key] = reply
            jsonl.add(self.file, {"prompt": key, "reply": self.public(reply)})

    def first(self, ask: Ask) -> Ask:
        """`ask` for the prompts alone that have no reply yet."""

        def asked(prompts: list[str]) -> list[str]:
            new = [prompt for prompt in dict.fromkeys(prompts) if self._key(prompt) not in self.known]
            for prompt, reply in zip(new, ask(new) if new else [], strict=True):
                self.keep(prompt, reply)
            return [self.known[self._key(prompt)] for prompt in prompts]

        return asked

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self.who}\n{prompt}".encode()).hexdigest()
