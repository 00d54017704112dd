"""Answers on the disk as they come: an evaluation that was stopped goes on where it was, and asks nothing twice.

`evaluation/partial/` holds a JSONL file for each system and decoding. Its name and its first line are what decides the
answers (the system's weights, the decoding, the limit, the number format); each other line is one answer under the hash
of what was asked. So a changed model or decoding has another file, and nothing is ever mixed. The folder goes when the
evaluation is whole.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from residency import jsonl
from residency.workspace import Run

FOLDER = "evaluation/partial"


class Part:
    """What one system has said under one decoding: values by the hash of what was asked."""

    def __init__(self, file: Path, about: dict[str, Any]) -> None:
        self.file = file
        lines = list(jsonl.rows(file))
        if lines[:1] != [{"about": about}]:  # cut short before it began, or a hash of the same digits
            file.write_text(json.dumps({"about": about}, ensure_ascii=False) + "\n", "utf-8")
            lines = []
        self.known = {row["asked"]: row["value"] for row in lines if {"asked", "value"} <= row.keys()}

    def __contains__(self, asked: str) -> bool:
        return asked in self.known

    def __getitem__(self, asked: str) -> Any:
        return self.known[asked]

    def keep(self, asked: str, value: Any) -> None:
        """Remember a value, on the disk as well; a kill can cut the last line alone."""
        self.known[asked] = value
        jsonl.add(self.file, {"asked": asked, "value": value})


class Partial:
    """The parts of a run's evaluation."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def of(self, **about: Any) -> Part:
        """The part for what decides the answers, `about`: plain values for JSON."""
        about = json.loads(json.dumps(about))
        return Part(self.run.path(f"{FOLDER}/{key(about)}.jsonl"), about)

    def done(self) -> None:
        """The evaluation is whole: what it was gone on from is needed no more."""
        self.run.forget(FOLDER)


def key(value: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
