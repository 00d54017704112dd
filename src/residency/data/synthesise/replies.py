"""A model's replies, kept in a file as they come: what was answered before a failure is not asked again."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

from residency.data.synthesise.model import Ask


class Replies:
    """Replies by prompt, and by `who` was asked, in a JSONL file that grows by a line a reply."""

    def __init__(self, file: Path, who: str) -> None:
        self.file, self.who = file, who
        self.lock = threading.Lock()  # an endpoint's replies come from several threads
        self.known = dict(_lines(file))

    def keep(self, prompt: str, reply: str) -> None:
        """Remember a reply, on the disk as well."""
        key = self._key(prompt)
        with self.lock:
            if key in self.known:
                return
            self.known[key] = reply
            with self.file.open("a", encoding="utf-8") as file:
                # A line of its own, also after one that a kill cut short.
                file.write("\n" + json.dumps({"prompt": key, "reply": reply}, ensure_ascii=False) + "\n")

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


def _lines(file: Path) -> list[tuple[str, str]]:
    """What an earlier try left; lines that it was stopped in, or that are something else, are passed over."""
    found = []
    for line in file.read_bytes().split(b"\n") if file.is_file() else []:
        try:
            row = json.loads(line)
            found.append((str(row["prompt"]), str(row["reply"])))
        except (ValueError, LookupError, TypeError):
            continue
    return found
