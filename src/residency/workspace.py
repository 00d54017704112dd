"""The run folder: atomic writes, a manifest with hashes, and a lock.

A file in a run folder is either whole or absent: it is written beside its place, synced and renamed. The manifest names
each file with its size and sha256, so that `verify` can tell a whole folder from a damaged one.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from filelock import FileLock, Timeout

from residency import ranks
from residency.disk import LEFT, cant_write, clear, reason, refuses, remove, sync, sync_folder
from residency.errors import Interrupted, UserError
from residency.prompts import Before
from residency.recipe import Recipe

MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"
LOCK = ".lock"
VOTES = "evaluation/votes.jsonl"
OWN = ("base", "tuned")  # the systems that every evaluation asks; all others are named by the user
PLAIN_GREEDY = "_greedy"  # after a system's name: the same under plain greedy decoding
UNSEALED = {"checkpoints", "trackers", "partial"}  # folders that change by themselves: no run is damaged by that
STAGES = {"prepare": "data/report.json", "train": "train.json"}  # where each says what it was made from


@dataclass(frozen=True)
class Dialogue:
    """One question and its answer; `row` is the position in the source, counted from 1, and 0 of a redirect.

    A record of plain text has an empty question and its text as the answer. In a conversation, `history` holds the
    earlier questions and answers, oldest first, and `turn` counts from 0. In a pair of answers, `answer` is the chosen
    one and `rejected` the other.
    """

    row: int
    question: str
    answer: str
    turn: int = 0
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    rejected: str = ""

    @property
    def before(self) -> Before:
        """What stands before the question."""
        return Before(self.system, self.history)


class Dialogues(Sequence[Dialogue]):
    """The dialogues of a JSONL file, read from the disk as they are asked for: a large set never fills the memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
        ends = np.flatnonzero(np.frombuffer(self._text, dtype=np.uint8) == ord("\n"))
        cut = len(self._text) > (ends[-1] + 1 if len(ends) else 0)  # a last line without its end: to be found damaged
        self._ends = np.append(ends, len(self._text)) if cut else ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> Dialogue: ...
    @overload
    def __getitem__(self, place: slice) -> list[Dialogue]: ...
    def __getitem__(self, place: int | slice) -> Dialogue | list[Dialogue]:
        """Raises UserError where the line is damaged."""
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        start = int(self._ends[place - 1]) + 1 if place else 0
        with _whole(self._path, "prepare"):
            row = json.loads(self._text[start : int(self._ends[place])])
            history = tuple((question, answer) for question, answer in row.get("history", []))
            return Dialogue(**{**row, "history": history})


@dataclass(frozen=True)
class Run:
    """A run folder. Of several ranks the first alone writes, forgets, seals and locks; for others that does nothing."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, recipe: Recipe) -> Run:
        """The run folder, made where it is missing, with its recipe written into it.

        Raises:
            UserError: the folder can't be written to.
        """
        run = cls(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run.take(recipe)
        except OSError as error:
            raise cant_write(folder, reason(error)) from None
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run folder.

        Raises:
            UserError: there is no such folder, or no recipe in it.
        """
        folder = Path(folder)
        if not (folder / RECIPE).is_file():
            what = "has no recipe.yaml" if folder.is_dir() else "no such folder"
            raise UserError(f"run folder {folder}: {what}", "a folder that `residency run` or `prepare` made")
        return cls(folder)

    @property
    def recipe(self) -> Recipe:
        """The recipe that this run was made with, every default written out."""
        return Recipe.load(self.folder / RECIPE)

    def load_recipe(self, overrides: Sequence[str]) -> Recipe:
        """The run's recipe with overrides applied and kept."""
        recipe = Recipe.load(self.folder / RECIPE, overrides)
        if overrides:
            self.write_text(RECIPE, recipe.dump())
        return recipe

    def take(self, recipe: Recipe) -> None:
        """Write the recipe that the run is made with from here on."""
        self.write_text(RECIPE, recipe.dump())

    def keep_recipe(self, recipe: Recipe) -> None:
        """Write a recipe into a run that stays as it is otherwise, and seal it anew where that changes its file."""
        file = self.folder / RECIPE
        before = sha256(file) if file.is_file() else ""
        self.take(recipe)
        if sha256(file) != before or not (self.folder / MANIFEST).is_file():
            self.seal()

    def forget(self, *names: str) -> None:
        """Remove files and folders that an earlier run of a later stage left: they no longer belong to this one.

        Votes stay, whatever goes: people gave them, and no command makes them anew.
        """
        votes = self.folder / VOTES
        for name in names if ranks.first() else ():
            path = self.folder / name
            if path in votes.parents and votes.is_file():
                for other in sorted(path.iterdir()):
                    if other != votes:
                        remove(other)
            else:
                remove(path)

    def path(self, name: str) -> Path:
        """Where a file of the run lies, its folder made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def need(self, name: str, stage: str) -> Path:
        """An existing file of the run, or an error that names the stage that makes it."""
        path = self.folder / name
        if not path.exists():
            raise UserError(f"{path}: not there", f"a run that `residency {stage}` has been through")
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file as a whole or not at all."""
        return self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write a file as a whole or not at all."""
        if ranks.first():
            with replacing(self.path(name)) as temporary:
                temporary.write_bytes(data)
        return self.folder / name

    def write_json(self, name: str, value: Any) -> Path:
        """Write one JSON value, readable by people."""
        return self.write_text(name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def write_jsonl(self, name: str, rows: Iterable[Any]) -> Path:
        """Write one JSON value a line."""
        return self.write_text(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def read_json(self, name: str, stage: str) -> Any:
        """A JSON file of the run; `stage` is the command that makes it.

        Raises:
            UserError: it is not there, or damaged.
        """
        with _whole(self.folder / name, stage):
            return json.loads(self.need(name, stage).read_text("utf-8"))

    def chosen_decoding(self) -> dict[str, Any]:
        """What the model answers under, beside being greedy, by transformers' names; empty for plain greedy.

        Raises:
            UserError: the run was not trained.
        """
        own = self.read_json("model/generation_config.json", "train")
        return {name: own[name] for name in ("repetition_penalty", "no_repeat_ngram_size") if own.get(name)}

    def read_jsonl(self, name: str, stage: str) -> list[Any]:
        """A JSONL file of the run; `stage` is the command that makes it.

        Raises:
            UserError: it is not there, or damaged.
        """
        with _whole(self.folder / name, stage):
            text = self.need(name, stage).read_text("utf-8")
            # Not splitlines(): a text may hold other line separators of Unicode, which JSON leaves as they are.
            return [json.loads(line) for line in text.split("\n") if line]

    def dialogues(self, split: str) -> Dialogues:
        """The dialogues of a prepared split: train, validation or test."""
        return Dialogues(self.need(f"data/{split}.jsonl", "prepare"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, so that two processes never write into it at once.

        Raises:
            UserError: another process holds it, or it can't be written to.
        """
        if not ranks.first():
            yield
            return
        try:
            lock = FileLock(self.path(LOCK))
            lock.acquire(timeout=0)  # the system lets go of it when its process ends, however that ends
        except Timeout:
            raise UserError(
                f"run folder {self.folder}: another residency process works in it", fix="wait, or use --out"
            ) from None
        except OSError as error:
            raise cant_write(self.folder, reason(error), fix="use --out") from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def working(self, again: str) -> Iterator[None]:
        """Hold the folder for a stage; where the user stops it, the error says to go on with the command `again`.

        What an earlier process left half-written when it was killed goes first.

        Raises:
            UserError: another process holds it, the disk is full, or the folder can't be written to.
            Interrupted: the user stopped the stage.
        """
        with self.locked():
            try:
                if ranks.first():
                    clear(self.folder)
                yield
            except OSError as error:
                if not refuses(error, self.folder):
                    raise
                fix = f"free some space, then go on with `{again}`"
                raise cant_write(self.folder, reason(error), fix=fix) from error
            except KeyboardInterrupt:
                raise Interrupted(f"stopped; go on with `{again}`") from None
            except Interrupted as stopped:
                raise Interrupted(f"{stopped}; go on with `{again}`") from None

    def seal(self, **about: Any) -> None:
        """Write the manifest: every file of the run with size and sha256, and what else is to be said `about` it.

        Of a run itself, that is its recipe and what each stage was made from: inputs by hash, versions, seed.
        """
        if not ranks.first():
            return
        files = {
            str(path.relative_to(self.folder).as_posix()): {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name not in (MANIFEST, LOCK) and self._sealed(path.relative_to(self.folder))
        }
        self.write_json(MANIFEST, {**self._origin(), **about, "files": files})

    def _sealed(self, path: Path) -> bool:
        return not UNSEALED & set(path.parts) and not any(LEFT.fullmatch(part) for part in path.parts)

    def _origin(self) -> dict[str, Any]:
        """The recipe, and `made_from` by stage; nothing for a checkpoint, which has an origin of its own."""
        if not (self.folder / RECIPE).is_file():
            return {}
        reports = {stage: file for stage, file in STAGES.items() if (self.folder / file).is_file()}
        made = {stage: self.read_json(file, stage).get("made_from") for stage, file in reports.items()}
        return {"recipe": self.recipe.model_dump(mode="json"), "made_from": made}

    def verify(self) -> list[str]:
        """What is wrong with the folder, a line a file; an empty list when every file is as the manifest says."""
        manifest = self.read_json(MANIFEST, "run")["files"]
        return [fault for name, entry in manifest.items() if (fault := self._fault(name, entry))]

    def _fault(self, name: str, entry: dict[str, Any]) -> str:
        path = self.folder / name
        if not path.is_file():
            return f"{name}: missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name}: {path.stat().st_size} bytes, the manifest says {entry['bytes']}"
        return "" if sha256(path) == entry["sha256"] else f"{name}: sha256 differs from the manifest"


def systems_in(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each system's answer in a row of `evaluation/answers.jsonl`: base, tuned, then those under `others`.

    Answers under plain greedy are of no system of their own, and are left aside.
    """
    own = {name: value for name, value in row.items() if not name.endswith(PLAIN_GREEDY)}
    every = own | dict(own.pop("others", None) or {})
    found = {name: value for name, value in every.items() if isinstance(value, dict) and "text" in value}
    return {name: found[name] for name in sorted(found, key=lambda name: OWN.index(name) if name in OWN else len(OWN))}


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`, a file or a folder, that takes its place when the block ends well.

    A folder that is replaced is put aside under another name first: a kill while its files are removed, one by one,
    would leave half of it under its own.
    """
    temporary, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    remove(temporary)
    remove(old)
    try:
        yield temporary
        sync(temporary)
        if target.is_dir():
            target.replace(old)
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        remove(temporary)
        remove(old)


def sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _whole(path: Path, stage: str) -> Iterator[None]:
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error})", fix=f"`residency {stage}` makes it anew") from None
