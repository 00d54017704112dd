"""Benchmark questions from files on this machine, as the rows that lm-eval's own task definitions read.

A file's rows are plain (docs/benchmarks.md has the layout); what lm-eval makes of the hub's rows, its prompts and its
targets, it then makes of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from residency.errors import UserError, listed
from residency.workspace import sha256

Row = dict[str, Any]
LETTERS = "ABCDEFGHIJ"
SENTENCE_END = re.compile(r"[.!?] ")
DECISIONS = ("yes", "no", "maybe")


@dataclass(frozen=True)
class Source:
    """Where a task's questions lie, what each row must have, and how it becomes a row of lm-eval's task."""

    files: tuple[str, ...]  # names without .jsonl, the first that is there; a * stands for anything
    convert: Callable[[Row], Row]
    fields: tuple[str, ...]
    home: str  # the folder of lm-eval that defines the task
    choices: int | None = None  # where the prompt has room for just so many
    where: dict[str, str] = field(default_factory=dict)  # only rows with these values


@dataclass(frozen=True)
class Questions:
    """A task's rows as lm-eval reads them; `shots` are examples to put before a question, where a file holds some."""

    rows: list[Row]
    shots: list[Row]
    sha256: str


def source_of(task: str) -> Source | None:
    """How a task's questions are read from local files; None where that is not known."""
    if task.startswith("mmlu_"):
        where = {"subject": task.removeprefix("mmlu_")}
        return Source(("mmlu*",), _mmlu, ("subject", *PLAIN), "mmlu/default", 4, where)
    return SOURCES.get(task)


def home_of(task: str) -> str:
    """The folder of lm-eval that defines a task or group; empty where that is not known."""
    source = source_of("mmlu_" if task == "mmlu" else task)
    return source.home if source else ""


def expanded(names: list[str], folder: Path) -> list[str]:
    """The task names, with `mmlu` as the subjects that the folder holds.

    Raises:
        UserError: a name is not one that can be read from files.
    """
    found: list[str] = []
    for name in names:
        own = [f"mmlu_{subject}" for subject in _subjects(folder)] if name == "mmlu" else [name]
        found += [task for task in own if task not in found]
    unknown = [name for name in found if source_of(name) is None]
    if unknown:
        raise UserError(
            f"--tasks {unknown[0]}: not one that can be read from files",
            listed([*SOURCES, "mmlu", "mmlu_SUBJECT"]),
            "leave out --data to take it from the hub",
        )
    return found


def read(task: str, folder: Path) -> Questions:
    """A task's questions out of a folder.

    Raises:
        UserError: there is no such file, or a row of it is not as the layout says.
    """
    source = source_of(task)
    assert source is not None  # `expanded` let it through
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder", "a folder of benchmark files; docs/benchmarks.md")
    files = _files(source, folder)
    if not files:
        wanted = " or ".join(f"{name}.jsonl" for name in source.files)
        raise UserError(f"--data {folder}: nothing for the task {task}", wanted, "docs/benchmarks.md has the layout")
    rows = [row for file in files for row in _rows(file, source)]
    if not rows:
        raise UserError(f"--data {folder}: no row for the task {task} in {listed(file.name for file in files)}")
    shots = [row for file in files for row in _rows(file.with_name(f"{file.stem}_shots.jsonl"), source, missing=True)]
    return Questions(rows, shots, "+".join(sha256(file)[:16] for file in files))


def dataset(task_name: str, folder: str, **_: Any) -> dict[str, Any]:
    """A task's questions, and examples to put before them, as lm-eval asks for its rows."""
    from datasets import Dataset

    questions = read(task_name, Path(folder))
    found = {"questions": Dataset.from_list(questions.rows)}
    return found | ({"shots": Dataset.from_list(questions.shots)} if questions.shots else {})


def _files(source: Source, folder: Path) -> list[Path]:
    """The files of the first name that has any."""
    for name in source.files:
        found = [path for path in sorted(folder.glob(f"{name}.jsonl")) if not path.stem.endswith("_shots")]
        if found:
            return found
    return []


def _subjects(folder: Path) -> list[str]:
    """The subjects of the MMLU files of a folder, in the order in which they come."""
    source = source_of("mmlu_any")
    assert source is not None
    files = _files(source, folder)
    if not files:
        raise UserError(f"--data {folder}: nothing for the task mmlu", "mmlu*.jsonl", "docs/benchmarks.md")
    found: dict[str, None] = {}
    for file in files:
        for row in _parsed(file):
            found.setdefault(str(row.get("subject")).replace(" ", "_"))
    return list(found)


def _rows(file: Path, source: Source, *, missing: bool = False) -> list[Row]:
    """A file's rows converted; `missing` allows for a file that is not there."""
    if missing and not file.is_file():
        return []
    found = []
    for number, row in enumerate(_parsed(file), start=1):
        if any(str(row.get(name)).replace(" ", "_") != value for name, value in source.where.items()):
            continue
        fault = _fault(row, source)
        if fault:
            raise UserError(f"{file}, line {number}: {fault}", "the layout in docs/benchmarks.md")
        found.append(source.convert(row))
    return found


def _parsed(file: Path) -> list[Row]:
    rows = []
    try:
        for number, line in enumerate(file.read_text("utf-8").split("\n"), start=1):
            if line.strip():
                rows.append(json.loads(line))
                if not isinstance(rows[-1], dict):
                    raise UserError(f"{file}, line {number}: no JSON object")
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {number}: not JSON ({error})", "one JSON object a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: can't be read ({error})", "a UTF-8 text file") from None
    return rows


def _fault(row: Row, source: Source) -> str:
    """What is wrong with a row; empty where nothing is."""
    for name in source.fields:
        value = row.get(name)
        if name in LISTS:
            if not isinstance(value, list) or not value or not all(isinstance(own, str) for own in value):
                return f"{name} is no list of texts"
        elif name != "answer" and not (isinstance(value, str) and value.strip()):
            return f"{name} is no text"
    if "context" in source.fields and ": " not in row["context"]:
        return 'context does not begin with "activity: "'
    return _wrong_answer(row, source) if "answer" in source.fields else ""


def _wrong_answer(row: Row, source: Source) -> str:
    options, answer = row.get("choices", row.get("endings")), row.get("answer")
    if options is None:
        return "" if answer in DECISIONS else f"answer is none of {', '.join(DECISIONS)}"
    if source.choices and len(options) != source.choices:
        return f"{len(options)} choices, and the task has room for {source.choices}"
    known = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < min(len(options), len(LETTERS))
    return "" if known else f"answer {answer!r} is not the index of one of {len(options)}"


def _arc(row: Row) -> Row:
    labels = list(LETTERS[: len(row["choices"])])
    choices = {"text": row["choices"], "label": labels}
    return {"question": row["question"], "choices": choices, "answerKey": labels[row["answer"]]}


def _hellaswag(row: Row) -> Row:
    """The context is the hub's `activity_label: ctx`; lm-eval reads its parts, and capitalises the second.

    That one is a sentence's beginning, to be gone on with: what stands after the last full stop, where the context
    does not end in one.
    """
    label, _, context = row["context"].partition(": ")
    ends = [match.end() for match in SENTENCE_END.finditer(context)]
    cut = ends[-1] if ends and context.rstrip()[-1:] not in ".!?" else len(context)
    first, second = context[:cut].rstrip(" "), context[cut:]
    parts = {"activity_label": label, "ctx_a": first, "ctx_b": second}
    return {**parts, "endings": row["endings"], "label": str(row["answer"])}


def _mmlu(row: Row) -> Row:
    return {name: row[name] for name in ("question", "subject", "choices", "answer")}


def _truthfulqa(row: Row) -> Row:
    """mc1: the best answer among the wrong ones; mc2: all right ones among the wrong ones."""
    wrong, right = row["incorrect_answers"], row["correct_answers"]
    one = {"choices": [row["best_answer"], *wrong], "labels": [1] + [0] * len(wrong)}
    many = {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)}
    return {"question": row["question"], "mc1_targets": one, "mc2_targets": many}


def _pubmedqa(row: Row) -> Row:
    return {"QUESTION": row["question"], "CONTEXTS": row["contexts"], "final_decision": row["answer"]}


def _medqa(row: Row) -> Row:
    endings = {f"ending{place}": text for place, text in enumerate(row["choices"])}
    return {"sent1": row["question"], **endings, "label": row["answer"]}


def _medmcqa(row: Row) -> Row:
    options = {f"op{letter}": text for letter, text in zip("abcd", row["choices"], strict=True)}
    return {"question": row["question"], **options, "cop": row["answer"]}


PLAIN = ("question", "choices", "answer")
LISTS = {"choices", "endings", "contexts", "correct_answers", "incorrect_answers"}
TRUTHFUL = ("question", "best_answer", "correct_answers", "incorrect_answers")
SOURCES = {
    "arc_easy": Source(("arc_easy",), _arc, PLAIN, "arc"),
    "arc_challenge": Source(("arc_challenge",), _arc, PLAIN, "arc"),
    "hellaswag": Source(("hellaswag", "hellaswag_val"), _hellaswag, ("context", "endings", "answer"), "hellaswag"),
    "truthfulqa_mc1": Source(("truthfulqa",), _truthfulqa, TRUTHFUL, "truthfulqa"),
    "truthfulqa_mc2": Source(("truthfulqa",), _truthfulqa, TRUTHFUL, "truthfulqa"),
    "pubmedqa": Source(("pubmedqa", "pubmedqa_labelled"), _pubmedqa, ("question", "contexts", "answer"), "pubmedqa"),
    "medqa_4options": Source(("medqa",), _medqa, PLAIN, "medqa", 4),
    "medmcqa": Source(("medmcqa",), _medmcqa, PLAIN, "medmcqa", 4),
}
