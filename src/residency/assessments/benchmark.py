"""Public benchmarks, base against tuned: what a training has cost in general knowledge."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residency import environment, models, pipeline
from residency.errors import UserError, listed
from residency.progress import Progress, Silent
from residency.recipe import Recipe
from residency.report.forgotten import rows
from residency.workspace import Run

if TYPE_CHECKING:
    from residency.evaluate.benchmarks import Book, Exam, Settings

__all__ = ["Asked", "benchmark", "rows"]

SYSTEMS = ("base", "tuned")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Asked:
    """What is asked: names of tasks, as lm-eval has them, and how.

    `data` is a folder with the questions (docs/benchmarks.md has its layout); without it they come from the hub.
    `limit` asks only the first questions of each task. `shots` is how many examples stand before a question; None
    leaves that to the task.
    """

    tasks: tuple[str, ...]
    data: Path | None = None
    limit: int | None = None
    shots: int | None = None
    systems: tuple[str, ...] = SYSTEMS
    precision: str = "float32"

    def __post_init__(self) -> None:
        for option, given, known in (
            ("--systems", self.systems, SYSTEMS),
            ("--precision", (self.precision,), PRECISIONS),
        ):
            wrong = [name for name in given if name not in known]
            if wrong or not given:
                raise UserError(f"{option} {wrong[0] if wrong else '(nothing)'}: not known", f"of {listed(known)}")

    def command(self, folder: Path) -> str:
        """The command that asks this."""
        parts = ["residency", "benchmark", str(folder), "--tasks", ",".join(self.tasks)]
        parts += ["--data", str(self.data)] if self.data else []
        parts += ["--limit", str(self.limit)] if self.limit else []
        parts += ["--shots", str(self.shots)] if self.shots is not None else []
        parts += ["--systems", ",".join(self.systems)] if self.systems != SYSTEMS else []
        parts += ["--precision", self.precision] if self.precision != PRECISIONS[0] else []
        return shlex.join(parts)


def benchmark(folder: Path, asked: Asked, progress: Progress | None = None) -> dict[str, Any]:
    """Ask the run's models; returns what `evaluation/benchmarks.json` then says of all tasks so far.

    A task that was finished under the same settings is not asked again.

    Raises:
        UserError: lm-eval is not installed, a task is not known or its data is not there, or the run is not trained.
        Interrupted: stopped by the user; the message says how to go on.
    """
    from residency.evaluate import benchmarks

    progress = progress or Silent()
    progress.stage("Benchmark")
    version = benchmarks.require()
    opened = Run.open(folder)
    recipe = opened.recipe
    if "tuned" in asked.systems:
        opened.need("model", "train")
    names = benchmarks.names_of(list(asked.tasks), asked.data)
    with opened.working(asked.command(folder)):
        book = benchmarks.Book(opened, recipe.evaluate.resamples)
        exams = {name: benchmarks.load(name, asked.data, asked.shots) for name in names}
        if asked.limit:
            progress.say(f"A quick look: only the first {asked.limit:,} questions of each task. Full sets decide")
        settings = {
            name: benchmarks.Settings(exam.data, asked.limit, asked.shots, asked.precision, version)
            for name, exam in exams.items()
        }
        for system in asked.systems:
            left = [name for name in names if not book.holds(name, system, settings[name])]
            if held := [name for name in names if name not in left]:
                progress.say(f"There already for the {system} model, and kept: {listed(held)}")
            if left:
                _ask(Examined(opened, recipe, system, progress), {n: (exams[n], settings[n]) for n in left}, book)
        opened.seal()
    if (folder / "report.html").is_file():
        pipeline.report(folder)
    return book.content()


@dataclass(frozen=True)
class Examined:
    """One of a run's two systems, and who is told how it does."""

    run: Run
    recipe: Recipe
    system: str
    progress: Progress

    def load(self, precision: str) -> Any:
        """The system's model, where it answers fastest."""
        import torch

        dtype = getattr(torch, precision)
        if self.system == "base":
            model: Any = models.load_base(self.recipe.model, dtype, progress=self.progress)
        else:
            model = models.load_tuned(self.run.need("model", "train"), dtype)
        return model.to(models.device())

    def teller(self, name: str) -> Callable[[int, int], None]:
        """Shows a task's progress in tokens."""
        return lambda done, total: self.progress.step(f"{name}, {self.system}", done, total, "tokens")


def _ask(examined: Examined, left: dict[str, tuple[Exam, Settings]], book: Book) -> None:
    """One system through the tasks that it has not been through, each kept as it ends."""
    from residency.evaluate import benchmarks

    environment.keep_freed_memory()
    tokenizer = models.load_tokenizer(examined.recipe.model)
    precision = next(iter(left.values()))[1].precision
    sitting = benchmarks.Sitting.of(examined.load(precision), tokenizer)
    for name, (exam, settings) in left.items():
        about = [name, examined.system, examined.recipe.model.model_dump(mode="json"), settings.as_dict()]
        path = examined.run.path(f"evaluation/.{name}.{examined.system}.partial")
        journal = benchmarks.Journal(path, json.dumps(about))
        result = sitting.take(name, exam, settings, journal, examined.teller(name))
        book.add(name, examined.system, settings, result)
        examined.progress.say(f"{name}, {examined.system}: {_said(result)}")
    del sitting
    environment.give_back_memory()


def _said(result: Any) -> str:
    parts = [
        f"{metric} {own['value']:.4f}" + (f" ± {own['stderr']:.4f}" if own["stderr"] is not None else "")
        for metric, own in result.metrics.items()
    ]
    cut = f"; {result.truncated:,} requests were longer than the model's window and cut on the left"
    text = f"{', '.join(parts)} ({len(result.rows):,} questions, {result.seconds:.0f} s"
    return text + (cut if result.truncated else "") + ")"
