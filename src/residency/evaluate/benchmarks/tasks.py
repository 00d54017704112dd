"""lm-eval's task definitions, on the hub's data or on local files."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from residency.errors import UserError, nearest
from residency.evaluate.benchmarks import local

EXTRA = "residency[bench]"
SEED = 1234  # of the examples before a question: lm-eval's own
ALIASES = {"truthfulqa": ["truthfulqa_mc1", "truthfulqa_mc2"], "medqa": ["medqa_4options"]}
# A definition that takes another's everything, and its rows from a function. lm-eval reads such a file from any folder.
ON_FILES = """include: {definition}
task: {name}
custom_dataset: !function residency.evaluate.benchmarks.local.dataset
training_split: null
validation_split: null
test_split: questions
fewshot_split: {shots}
metadata: {{task_name: {name}, folder: {folder}}}
"""


@dataclass(frozen=True)
class Exam:
    """A task of lm-eval with its questions loaded; `data` is "hub", or the hash of the files they come from."""

    task: Any
    data: str


def require() -> str:
    """The version of lm-eval that is installed.

    Raises:
        UserError: none is.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("benchmark: lm-eval is not installed", fix=f"`pip install '{EXTRA}'` brings it")
    return metadata.version("lm_eval")


def names_of(names: list[str], folder: Path | None) -> list[str]:
    """The tasks of lm-eval that some names stand for: groups such as `mmlu` become their members.

    Raises:
        UserError: lm-eval has no task of the name, or it can't be read from files.
    """
    if not names:
        raise UserError("--tasks: none named", "names such as arc_easy,hellaswag")
    names = [one for name in names for one in ALIASES.get(name, [name])]
    if folder is not None:
        names = local.expanded(names, folder)
    index = _index(_home(names))
    found: dict[str, None] = {}
    for name in names:
        if name not in index:
            raise UserError(f"--tasks {name}: lm-eval has no such task", fix=nearest(name, index))
        found |= dict.fromkeys(_members(index, name))
    return list(found)


def load(name: str, folder: Path | None, shots: int | None) -> Exam:
    """One task of lm-eval, its questions loaded; `shots` examples stand before each, None leaves that to the task.

    Raises:
        UserError: the local file is not there or wrong, it has no examples to put before a question, or the hub does
            not give the data.
    """
    data = "hub"
    if folder is not None:
        questions = local.read(name, folder)
        data = questions.sha256
        if shots and len(questions.shots) < shots:
            raise UserError(
                f"--shots {shots}: the task {name} has {len(questions.shots)} examples in {folder}",
                "at least as many in NAME_shots.jsonl beside NAME.jsonl",
            )
    with quiet_lm_eval():
        task = _loaded(name, folder)
    if shots is not None:
        task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=SEED)
    return Exam(task, data)


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Keep lm-eval's notices and bars off the terminal; errors still raise."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _loaded(name: str, folder: Path | None) -> Any:
    from lm_eval.tasks import TaskManager

    definition = _index(_home([name]))[name].yaml_path
    try:
        if folder is None:
            return TaskManager(include_defaults=False).load(str(definition))["tasks"][name]
        with tempfile.TemporaryDirectory() as scratch:
            shots = "shots" if local.read(name, folder).shots else "null"
            paths = {"definition": json.dumps(str(definition)), "folder": json.dumps(str(folder.resolve()))}
            text = ON_FILES.format(name=name, shots=shots, **paths)  # JSON's texts are YAML's too
            (Path(scratch) / f"{name}.yaml").write_text(text, "utf-8")
            return TaskManager(include_defaults=False, include_path=scratch).load(name)["tasks"][name]
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--tasks {name}: its questions can't be loaded ({reason})",
            "a hub that can be reached",
            "or --data FOLDER, with the questions in files (docs/benchmarks.md)",
        ) from error


def _home(names: list[str]) -> tuple[str, ...]:
    """The folders of lm-eval that define the tasks, where they are known; else all of them, which takes a while."""
    homes = {local.home_of(name) for name in names}
    return tuple(sorted(homes)) if "" not in homes else ("",)


@lru_cache(maxsize=4)
def _index(homes: tuple[str, ...]) -> dict[str, Any]:
    """lm-eval's index of the tasks, groups and tags that some of its folders define."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    with quiet_lm_eval():
        manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=[str(root / home) for home in homes])
    return dict(manager.task_index)


def _members(index: dict[str, Any], name: str) -> list[str]:
    """The tasks that a name stands for: itself, or those of a group or tag."""
    entry = index[name]
    if entry.kind.name == "TAG":
        return sorted(entry.tags)
    if entry.kind.name != "GROUP":
        return [name]
    parts = entry.cfg["task"]
    strange = [part for part in parts if not isinstance(part, str) or part not in index]
    if strange:
        raise UserError(f"--tasks {name}: a group whose tasks are changed inside it", "its tasks, named one by one")
    return [one for part in parts for one in _members(index, part)]
