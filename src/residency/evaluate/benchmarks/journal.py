"""What was already computed of a task that takes long: a file that grows with each micro-batch, and is read again.

It belongs to one list of requests, whose hash is its first line: another model, other questions or other settings begin
anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from residency.evaluate.answers.continuations import Likelihood, Pair


class Journal:
    """The likelihoods of a list of requests as they come; `about` says what else they depend on."""

    def __init__(self, path: Path, about: str) -> None:
        self.path, self.about = path, about

    def begin(self, pairs: Sequence[Pair]) -> dict[int, Likelihood]:
        """What the file holds of these requests, by their places; it is begun anew where it is of others."""
        mark = hashlib.sha256(json.dumps([self.about, pairs]).encode()).hexdigest()
        found = self._read(mark)
        if not found:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(mark) + "\n", "utf-8")
        return found

    def keep(self, found: dict[int, Likelihood]) -> None:
        """Add what was found."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([[place, *value] for place, value in found.items()]) + "\n")

    def end(self) -> None:
        """The results stand elsewhere now."""
        self.path.unlink(missing_ok=True)

    def _read(self, mark: str) -> dict[int, Likelihood]:
        if not self.path.is_file():
            return {}
        first, *lines = self.path.read_text("utf-8").split("\n")
        if first != json.dumps(mark):
            return {}
        found: dict[int, Likelihood] = {}
        for line in lines[:-1]:  # what stands after the last line's end was being written when it stopped
            found |= {place: (value, best) for place, value, best in json.loads(line)}
        self.path.write_text("\n".join([first, *lines[:-1], ""]), "utf-8")
        return found
