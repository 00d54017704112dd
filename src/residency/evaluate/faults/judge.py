"""A judge model that adds to the rules: asked over HTTP, its replies read strictly and kept as they come."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from residency import jsonl
from residency.endpoint import Endpoint
from residency.evaluate.faults.rules import CATEGORIES

AT_ONCE = 4  # answers that the judge is asked about at once
FLAGS = tuple(category.judged for category in CATEGORIES.values() if category.judged)


@dataclass(frozen=True)
class Verdict:
    """What a judge says of an answer: which categories it sees there, by their `judged` keys, and why."""

    flags: frozenset[str]
    why: str


@dataclass
class Judge:
    """Verdicts by prompt, in a JSONL file that grows by a line a reply: what was judged once is not asked again.

    The file has the judge's address and model, never its key.
    """

    endpoint: Endpoint
    file: Path
    _known: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        rows = jsonl.rows(self.file)
        self._known = {row["prompt"]: str(row["reply"]) for row in rows if {"prompt", "reply"} <= row.keys()}

    def verdicts(
        self, prompts: list[str], tell: Callable[[int, int], None] = lambda done, total: None
    ) -> list[Verdict | None]:
        """A verdict for each prompt, in order; None where the reply was not what was asked for.

        Raises:
            UserError: the endpoint fails; the replies so far are kept.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if self._key(prompt) not in self._known]
        for start in range(0, len(new), AT_ONCE):
            self.endpoint.ask(new[start : start + AT_ONCE], self._keep)
            tell(min(start + AT_ONCE, len(new)), len(new))
        return [parsed(self._known[self._key(prompt)]) for prompt in prompts]

    def _keep(self, prompt: str, reply: str) -> None:
        row = {"prompt": self._key(prompt), "judge": self._who, "reply": reply}
        with self._lock:  # replies come from several threads
            self._known[row["prompt"]] = reply
            jsonl.add(self.file, row)

    @property
    def _who(self) -> str:
        return f"{self.endpoint.address}#{self.endpoint.model}"

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._who}\n{prompt}".encode()).hexdigest()


def prompt(question: str, reference: str, answer: str) -> str:
    """What a judge is asked; its text is assets/judge_faults.txt."""
    text = (resources.files("residency") / "assets" / "judge_faults.txt").read_text("utf-8")
    parts = {"question": question, "reference": reference or "(none)", "answer": answer or "(nothing)"}
    head, *pieces = _split(text, tuple(parts))  # in one pass: an answer may hold {question} itself
    return head + "".join(parts.get(piece, piece) for piece in pieces)


def parsed(reply: str) -> Verdict | None:
    """A reply as a verdict; None where it is not exactly one JSON object with the keys that were asked for."""
    try:
        value = json.loads(reply)
    except ValueError:
        return None
    if not isinstance(value, dict) or set(value) != {*FLAGS, "why"} or not isinstance(value["why"], str):
        return None
    if not all(isinstance(value[flag], bool) for flag in FLAGS):
        return None
    return Verdict(frozenset(flag for flag in FLAGS if value[flag]), value["why"])


def _split(text: str, names: tuple[str, ...]) -> list[str]:
    """The text cut at {name} for each name, the names themselves between the pieces."""
    pieces = [text]
    for name in names:
        head, _, tail = pieces[-1].partition("{" + name + "}")
        pieces[-1:] = [head, name, tail]
    return pieces
