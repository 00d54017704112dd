"""A few real steps on this machine, in a process of their own: what the forecast is calibrated by.

A process's peak and its heap can't be looked at apart from what it did before; a fresh process has done nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from residency import environment, models
from residency.batches import cut
from residency.errors import UserError
from residency.forecast.job import Job
from residency.forecast.speed import SAVING
from residency.progress import Silent
from residency.prompts import Example
from residency.recipe import Recipe
from residency.train.planning import Measured, length
from residency.train.results import forget_peak, peak_memory
from residency.train.setup import Setup, arguments, build_model, setup_of
from residency.train.steps import StepCollator
from residency.train.trainer import ResidencyTrainer
from residency.workspace import Run, replacing

BATCHES = 12  # micro-batches of a rehearsed step, at most
STEPS = 10  # of them the second has the largest micro-batch: the first has neither gradients nor optimizer state yet
ENOUGH = 30.0  # seconds of steps; where they are slow, two have to do
SAVED = 2**27  # bytes that are saved as a checkpoint is, to see how fast that goes


def rehearse(recipe: Recipe, job: Job, examples: Sequence[Example], validation: Sequence[Example]) -> Measured:
    """Measure in a process of its own, in which nothing came before.

    Raises:
        UserError: it ended early, most often because memory ran out.
    """
    as_in_the_run = {"compile": job.compiled, "tokens_per_batch": job.tokens_per_batch}  # a few steps alone are short
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=as_in_the_run)})
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.json", Path(folder) / "found.json"
        steps = [[_plain(example) for example in step] for step in chosen(job, examples)]
        asked = [_plain(example) for example in _widest(validation, 2 * job.tokens_per_batch)]
        given.write_text(
            json.dumps({"recipe": recipe.model_dump(mode="json"), "steps": steps, "validation": asked}), "utf-8"
        )
        command = [sys.executable, "-m", "residency.train.rehearse", str(given), str(found)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(
                f"the measured steps ended with code {done.returncode} ({reason[:200]})",
                "a machine that can train this model",
                "plan from the configuration alone with --no-measure",
            )
        seen = json.loads(found.read_text("utf-8"))
    return _measured(seen, job, steps, asked)


def chosen(job: Job, examples: Sequence[Example]) -> list[list[Example]]:
    """The examples of the rehearsed steps: the epoch's first ones, and as second that of the largest micro-batch."""
    largest, _ = job.largest
    widest = next((place for place, step in enumerate(job.batches) if largest in step), 0)
    places = [place for place in range(len(job.batches)) if place != widest][: STEPS - 1]
    places.insert(1, widest)
    starts = [sum(len(step) for step in job.epoch[:place]) for place in places]
    order = job.order
    found = []
    for place, start in zip(places, starts, strict=True):
        own = [examples[order[start + offset]] for offset in range(len(job.epoch[place]))]
        cuts = cut([len(example) for example in own], job.tokens_per_batch)
        kept = cuts[:BATCHES] if largest in job.batches[place] else cuts[:: -(-len(cuts) // BATCHES)]
        found.append([own[row] for rows in kept for row in rows])
    return found


def _measured(seen: dict[str, Any], job: Job, steps: list[list[Any]], asked: list[Any]) -> Measured:
    """Rates from seconds: what the first step takes longer, while libraries set themselves up, comes once in a run."""
    work = [
        sum(job.work.training(b) for b in job.cut([length(_example(e)) for e in step], job.tokens_per_batch))
        for step in steps[: len(seen["whole"])]
    ]
    from_step = 1 if len(work) > 1 else 0
    inside, whole = sum(seen["inside"][from_step:]), sum(seen["whole"][from_step:])
    compute = sum(work[from_step:]) / max(inside, 1e-9)
    beside = max(whole - inside, 0.0) / (len(work) - from_step)
    start = seen["compiling"] + (max(seen["whole"][0] - beside - work[0] / compute, 0.0) if from_step else 0.0)
    forward = sum(job.work.forward(b) for b in job.cut([length(_example(e)) for e in asked], 2 * job.tokens_per_batch))
    return Measured(
        compute=compute,
        forward=forward / seen["validated"] if asked else compute,
        step=beside,
        start=start,
        steps=len(work),
        **{name: seen[name] for name in ("peak", "validation", "saving")},
    )


def main(given: Path, found: Path) -> None:
    """The rehearsal itself, in the process that was started for it."""
    content = json.loads(given.read_text("utf-8"))
    recipe = Recipe.parse(content["recipe"])
    steps = [[_example(plain) for plain in step] for step in content["steps"]]
    validation = [_example(plain) for plain in content["validation"]]
    environment.keep_freed_memory()
    setup = replace(setup_of(recipe, [len(example) for step in steps for example in step]), steps=len(steps))
    model = build_model(recipe, setup, Silent())
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Rehearsal(
            steps,
            model=model,
            args=_arguments(recipe, folder, setup),
            train_dataset=[example for step in steps for example in step],
            validation=validation,
            pad_id=0,
            **setup.going,
        )
        seen = _watch(trainer, setup.device, validation)
        seen["saving"] = saving_speed(Path(folder))
    found.write_text(json.dumps(seen), "utf-8")


def _watch(trainer: _Rehearsal, device: torch.device, validation: list[Example]) -> dict[str, Any]:
    watch = _Watch(trainer, device)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    forget_peak(device)  # of loading
    with models.quiet_libraries():
        trainer.train()
    environment.give_back_memory()
    forget_peak(device)
    started = time.perf_counter()
    if validation:
        trainer.evaluate()
    return {
        "peak": max(watch.peaks),
        "validation": peak_memory(device),
        "inside": watch.inside,
        "whole": watch.whole,
        "compiling": trainer.counts.compile_seconds,
        "validated": time.perf_counter() - started,
    }


def saving_speed(folder: Path) -> float:
    """Bytes a second of a checkpoint, written, synced and hashed; `SAVING` where the folder can't take it."""
    content, started = torch.rand(SAVED // 4), time.perf_counter()
    try:
        with replacing(folder / "checkpoint") as made:
            made.mkdir()
            torch.save(content, made / "content.pt")
            Run(made).seal()
    except (OSError, RuntimeError):  # torch's own writer raises the latter
        return SAVING
    return SAVED / (time.perf_counter() - started)


class _Rehearsal(ResidencyTrainer):
    """Goes through the steps that it is given, in their order."""

    recuts = False  # what a step takes as it is cut is what is asked here

    def __init__(self, steps: list[list[Example]], **options: Any) -> None:
        super().__init__(**options)
        self.steps = steps

    def get_train_dataloader(self) -> Any:
        """Each step as its micro-batches."""
        return [StepCollator(self.pad_id, self.tokens_per_batch)(step) for step in self.steps]


class _Watch(TrainerCallback):
    """Each step's seconds, whole and inside forward and backward, and its peak in bytes; enough is enough."""

    def __init__(self, trainer: ResidencyTrainer, device: torch.device) -> None:
        self.trainer, self.device = trainer, device
        self.inside: list[float] = []
        self.whole: list[float] = []
        self.peaks: list[int] = []
        self.started, self.spent, self.compiled = 0.0, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Look at the clock."""
        counts = self.trainer.counts
        self.started, self.spent, self.compiled = time.perf_counter(), counts.step_seconds, counts.compile_seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """And again."""
        compiling = self.trainer.counts.compile_seconds - self.compiled
        self.whole.append(time.perf_counter() - self.started - compiling)
        self.inside.append(self.trainer.counts.step_seconds - self.spent)
        self.peaks.append(peak_memory(self.device))
        if len(self.whole) > 1 and sum(self.whole) > ENOUGH:
            control.should_training_stop = True


def _arguments(recipe: Recipe, folder: str, setup: Setup) -> Any:
    found = arguments(recipe, Run(Path(folder)), setup, validated=False)
    found.save_strategy, found.report_to = "no", []
    return found


def _widest(examples: Sequence[Example], tokens_per_batch: int) -> list[Example]:
    """The examples of the first two validation batches, which are the widest."""
    cuts = cut([len(example) for example in examples], tokens_per_batch)[:2]
    return [examples[place] for places in cuts for place in places]


def _plain(example: Example) -> list[Any]:
    return [list(example.input_ids), example.learn_from]


def _example(plain: list[Any]) -> Example:
    return Example(tuple(plain[0]), plain[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
