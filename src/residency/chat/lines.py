"""Lines of a terminal or a pipe as questions and commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import platformdirs

FENCE = '"""'
Read = Callable[[bool], str]  # a line; told whether it is the first of a question
KEPT = 1000  # lines of history


def questions(source: TextIO | None = None) -> Iterator[str]:
    """Each question or command: a line, several that end in a backslash, or those between two lines of triple quotes.

    From a terminal with line editing and a history; a line without text is passed over. Ends at the end of the input.
    """
    read = _terminal if source is None and sys.stdin.isatty() else _pipe(source or sys.stdin)
    while True:
        try:
            text = _whole(read)
        except EOFError:
            return
        if text.strip():
            yield text.strip()


def remember_lines() -> None:
    """Line editing with the arrow keys, and a history that outlives the program, where the system has readline."""
    with suppress(ImportError, OSError):
        import atexit
        import readline

        file = Path(platformdirs.user_state_dir("residency", appauthor=False)) / "chat_history"
        file.parent.mkdir(parents=True, exist_ok=True)
        readline.set_history_length(KEPT)
        with suppress(FileNotFoundError):
            readline.read_history_file(file)
        atexit.register(_keep, file)


def _keep(file: Path) -> None:
    import readline

    with suppress(OSError):
        readline.write_history_file(file)


def _terminal(first: bool) -> str:
    try:
        return input("you> " if first else "...> ")
    except KeyboardInterrupt:  # a line thought better of
        print()
        return ""


def _pipe(source: TextIO) -> Read:
    def read(first: bool) -> str:
        line = source.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")

    return read


def _whole(read: Read) -> str:
    """One question; what is open at the end of the input is one too."""
    line = read(True)
    if line.strip() == FENCE:
        return _fenced(read)
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        try:
            line = read(False)
        except EOFError:
            line = ""
    return "\n".join([*lines, line])


def _fenced(read: Read) -> str:
    lines: list[str] = []
    with suppress(EOFError):
        while (line := read(False)).strip() != FENCE:
            lines.append(line)
    return "\n".join(lines)
