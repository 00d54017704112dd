"""The tests' side of lives.py: commands started in a warm process, each in a fork that may be made to die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Lives:
    """Starts commands in a warm process; see lives.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "lives.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        )  # fmt: skip

    @classmethod
    @contextmanager
    def warm(cls) -> Iterator[Lives]:
        """The process, until the block ends."""
        found = cls()
        yield found
        found.close()

    def live(self, recipe: Path, folder: Path, *options: str, command: str = "train", **wish: Any) -> dict[str, Any]:
        """A command of a recipe, with its run folder as `--out`."""
        return self.lead(command, str(recipe), "--out", str(folder), *options, folder=folder, **wish)

    def lead(self, *argv: str, folder: Path, **wish: Any) -> dict[str, Any]:
        """Any command; how it ended, and what it left where `compare` asks for it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"argv": argv, "folder": str(folder), **wish}) + "\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=20)
