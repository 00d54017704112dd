"""What a stranger may have put into a file, for the tests of security: a pickle that runs code when it is loaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch


class Evil:
    """An object whose unpickling makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


def pickled(path: Path, mark: Path) -> Path:
    """A file as torch writes it, which makes `mark` when it is unpickled; that it does is tried first."""
    torch.save(Evil(mark), path)
    torch.load(path, weights_only=False)
    assert mark.exists(), "the planted file is harmless, and proves nothing"
    mark.unlink()
    return path


def pickled_plainly(path: Path, mark: Path) -> Path:
    """The same as Python's own pickle writes it."""
    path.write_bytes(pickle.dumps(Evil(mark)))
    return path
