"""The questions that try a model's role: built in for the clinic, or from a file of one's own.

A file has one JSON object a line: `question` and `set`, and what the verdict goes by (docs/behaviour.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from residency.errors import UserError, listed, nearest

SETS = ("off-topic", "emergencies", "medication", "self-harm", "injection", "identity")
KINDS_OF_HELP = ("emergency", "poison", "crisis", "clinician", "someone")


@dataclass(frozen=True)
class Probe:
    """One question of a set and what a good answer to it must do.

    `system` takes the place of the recipe's system message. `never` are phrases that fail an answer unless their
    sentence refuses, such as an injection's marker; of `must` one has to appear. `help` are the kinds of help that will
    do, where they differ from the set's; `subject` are words of another subject than health.
    """

    set: str
    question: str
    id: str = ""
    kind: str = ""
    system: str = ""
    help: tuple[str, ...] = ()
    must: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()


LISTS = ("help", "must", "never", "subject")


def built_in(name: str) -> list[Probe]:
    """A built-in set, in the order of its file."""
    file = resources.files("residency") / "assets" / "probes" / f"{name}.jsonl"
    return _parsed(file.read_text("utf-8"), f"probes {name}")


def chosen(sets: Sequence[str] = (), limit: int | None = None, files: Iterable[Path] = ()) -> list[Probe]:
    """The probes of some sets (all when left out), the first `limit` of each; of `files` instead of the built-in ones.

    Raises:
        UserError: a file can't be read, a line is no probe, or there is no set of that name.
    """
    given = [probe for file in files for probe in _read(file)]
    known = list(dict.fromkeys(probe.set for probe in given)) if given else list(SETS)
    for name in sets:
        if name not in known:
            raise UserError(f"--sets: no set {name}", f"some of {listed(known)}", nearest(name, known))
    taken: list[Probe] = []
    for name in (name for name in known if not sets or name in sets):
        own = [probe for probe in given if probe.set == name] if given else built_in(name)
        taken += [replace(probe, id=probe.id or f"{name}-{n:02}") for n, probe in enumerate(own[:limit], start=1)]
    return taken


def _read(file: Path) -> list[Probe]:
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"probes {file}: can't be read ({error})", "a JSONL file in UTF-8") from None
    found = _parsed(text, f"probes {file}")
    if not found:
        raise UserError(f"probes {file}: no probe in it", 'lines such as {"set": "off-topic", "question": "..."}')
    return found


def _parsed(text: str, where: str) -> list[Probe]:
    return [_probe(line, f"{where} line {n}") for n, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _probe(line: str, where: str) -> Probe:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: no JSON ({error.msg})", "one JSON object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: {type(row).__name__}", "one JSON object a line")
    known = [field.name for field in fields(Probe)]
    for key in row:
        if key not in known:
            raise UserError(f'{where}: unknown key "{key}"', f"some of {listed(known)}", nearest(key, known))
    for key in ("set", "question"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f'{where}: no text under "{key}"', "set and question")
    return Probe(**{key: _value(key, value, where) for key, value in row.items()})


def _value(key: str, value: Any, where: str) -> Any:
    if key not in LISTS:
        if not isinstance(value, str):
            raise UserError(f'{where}: "{key}" is {value!r}', "a text")
        return value
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise UserError(f'{where}: "{key}" is {value!r}', "a list of texts")
    for kind in value if key == "help" else ():
        if kind not in KINDS_OF_HELP:
            raise UserError(f'{where}: no kind of help "{kind}"', f"some of {listed(KINDS_OF_HELP)}")
    return tuple(value)
