"""A Python process that works on what it is sent, and ends with this one, whatever ends it.

It is not multiprocessing's: that runs the user's own program once more in each process, and a process of its pools goes
on for ever where the one that started it is killed. Here a pipe that closes is the end.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from residency.errors import Interrupted

_START = "import sys; sys.path[:] = sys.argv[1:]; from residency.sharing.processes import serve; serve()"
_OWN_GROUP: dict[str, Any] = (  # Ctrl-C in a terminal is for the process that was started there
    {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
    if os.name == "nt"
    else {"start_new_session": True}
)
LEAVES = 30  # seconds for a process whose pipe has closed to be gone


class Elsewhere(Exception):
    """Where in another process an error comes from: its traceback, as the cause of the error here."""


class Process:
    """One process with a piece of work, a pickle; `threads` is how many of the cores it may use."""

    def __init__(self, work: bytes, threads: int) -> None:
        self._work = work
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *(path or str(Path.cwd()) for path in sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | with_threads(threads),
            **_OWN_GROUP,
        )

    def do(self, item: Any) -> Any:
        """What comes of the work on an item; an error there is raised here.

        Raises:
            Interrupted: the process was killed.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(self._work)
            self._work = b""
            pickle.dump(item, self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):
            raise self._ended() from None
        return taken(answer)

    def end(self) -> None:
        """End it, whatever it is at."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()

    def _ended(self) -> Exception:
        code = self._process.wait(LEAVES)
        if code >= 0:
            return RuntimeError(f"a process of prepare ended by itself, with exit code {code}")
        killed = f"stopped: a process of prepare was killed (signal {-code})"
        return Interrupted(f"{killed}; where memory ran out, fewer --workers take less")


def with_threads(count: int) -> dict[str, str]:
    """The environment of a process that may use so many of the processor's cores."""
    each = dict.fromkeys(("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS"), str(count))
    return {**each, "TOKENIZERS_PARALLELISM": "true" if count > 1 else "false"}


def answered(work: Callable[[Any], Any], item: Any) -> tuple[bool, Any, str]:
    """True and what comes of the work; or False, the error and its traceback."""
    try:
        return True, work(item), ""
    except Exception as error:
        told = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return False, RuntimeError(f"{type(error).__name__}: {error}"), told
        return False, error, told


def taken(answer: tuple[bool, Any, str]) -> Any:
    """What came of work elsewhere; or its error, raised with the traceback as its cause."""
    good, value, told = answer
    if not good:
        raise value from Elsewhere(told)
    return value


def serve() -> None:
    """Take the work, then item after item, from standard input, and answer each; until there is no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints has no part in the answers
    with suppress(EOFError, BrokenPipeError):
        work = pickle.load(sys.stdin.buffer)
        while True:
            pickle.dump(answered(work, pickle.load(sys.stdin.buffer)), answers)
            answers.flush()
    os._exit(0)
