"""The errors that a user can cause, and the one line each of them becomes.

A message has three parts: what was found and where, what was expected, what to do now.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The user's input is wrong; `residency` prints it as one line and exits with 2."""

    exit_code = 2

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        self.found, self.expected, self.fix = found, expected, fix
        parts = [found, f"expected {expected}" if expected else "", fix]
        super().__init__("; ".join(" ".join(part.split()) for part in parts if part))


class Interrupted(RuntimeError):
    """The work stopped half-way and can go on; `residency` prints the command that resumes it and exits with 3."""

    exit_code = 3


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean "x"?` for the known name most like `word`, or an empty string where none is near."""
    lowered = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f'did you mean "{lowered[found[0]]}"?' if found else ""


def listed(names: Iterable[str], limit: int = 20) -> str:
    """The names in one line, shortened after `limit` of them."""
    every = list(names)
    return ", ".join(every[:limit]) + (f" and {len(every) - limit} more" if len(every) > limit else "")


def reason_of(error: BaseException, limit: int = 200) -> str:
    """The first line of what an error of somebody else's code says, at most `limit` characters, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:limit]
