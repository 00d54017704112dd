"""How a stage tells what it is doing without printing: it calls these, and whoever started it decides what to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, and hours where there are any: 4:05, 1:00:09."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress(Protocol):
    """What a stage reports while it works."""

    def stage(self, name: str) -> None:
        """A stage of the run begins."""

    def say(self, text: str) -> None:
        """One line worth reading: a fact, a choice that was made, a warning."""

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """A small table of names and values."""

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` units of a task are finished."""


class Silent:
    """Shows nothing: what a library call does unless it is told otherwise."""

    def stage(self, name: str) -> None:
        """Ignore."""

    def say(self, text: str) -> None:
        """Ignore."""

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Ignore."""

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Ignore."""
