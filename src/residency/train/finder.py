"""A learning rate from a short sweep: the rate climbs from step to step, and the loss tells where it is too high."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from transformers import PrinterCallback, TrainerCallback

from residency import environment, models
from residency.errors import UserError
from residency.progress import Progress, Silent
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.train.setup import arguments, build_model, dither_learning, setup_of
from residency.train.trainer import ResidencyTrainer
from residency.workspace import Run

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 60  # ten steps to a power of ten
WINDOW = 7  # steps that a smoothed loss is the mean of: centred, since a trailing mean would suggest too high a rate
DIVERGED = 1.1  # the smoothed loss is this many times what it began at: worse than before anything was learnt
ENDS = 1.5  # the same for the mean of the last three steps: the sweep ends
FLAT = 0.01  # a loss that never falls by this share of where it began says nothing
MARGIN = 10  # under the rate with the least loss; the steepest fall is told too, but noise moves it far along a slope


@dataclass(frozen=True)
class Sweep:
    """A sweep and what it says: rates, losses as they came and smoothed (nats a token), and the rates that stand out.

    `steepest` is where the smoothed loss falls fastest, `lowest` where it is least, `diverged` where it had become
    worse than at the start. `suggestion` is a tenth of `lowest`. All are None where the loss hardly fell.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float | None
    lowest: float | None
    diverged: float | None
    suggestion: float | None


def find_learning_rate(recipe: Recipe, run: Run, prompt: Prompt, progress: Progress | None = None) -> Sweep:
    """Sweep the learning rate on the run's own examples with a model that is then thrown away.

    Leaves `lr_finder.json` and `lr_finder.png` in the run folder and changes nothing else there. The range test of
    Smith 2017 (arXiv:1506.01186), with a rate that climbs exponentially; everything else is as the recipe says.

    Raises:
        UserError: the data was not prepared, or a setting does not fit the model.
    """
    if recipe.train.objective != "sft":
        goal = f"--find-lr: train.objective is {recipe.train.objective}"
        raise UserError(goal, "a sweep over answers (sft)", "try a quarter of the rate that answers are learnt with")
    progress = progress or Silent()
    environment.keep_freed_memory()
    rows = ((d.question, d.answer, d.before) for d in run.dialogues("train"))
    examples = prompt.examples(rows, recipe.model.max_length)
    setup = replace(setup_of(recipe, [*map(len, examples)]), steps=STEPS)
    watcher = _Watcher(progress)
    with tempfile.TemporaryDirectory() as scratch, models.quiet_libraries():
        options = arguments(recipe, Run(Path(scratch)), setup, validated=False)
        options.learning_rate, options.save_strategy, options.report_to = LOWEST, "no", []
        model = build_model(recipe, setup, progress)
        dither_learning(model, recipe.train, progress)
        trainer = ResidencyTrainer(
            model=model,
            args=options,
            train_dataset=examples,
            validation=[],
            pad_id=prompt.tokenizer.pad_token_id or 0,
            **setup.going,
            tell=progress.say,
            rate=lambda step: (HIGHEST / LOWEST) ** (step / (STEPS - 1)),
            smoothing=recipe.train.label_smoothing,
            muon=recipe.train.optimizer == "muon",
            callbacks=[watcher],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    found = read_sweep(watcher.rates, watcher.losses)
    run.write_json("lr_finder.json", asdict(found))
    run.write_bytes("lr_finder.png", picture(found))
    return found


def read_sweep(rates: Sequence[float], losses: Sequence[float]) -> Sweep:
    """What a sweep says; losses that are no number count as diverged."""
    finite = next((place for place, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    smoothed = smooth(losses[:finite])
    if len(smoothed) < WINDOW:
        raise UserError(
            f"learning-rate finder: the loss is no number after {finite} steps", fix="use precision fp32 for the sweep"
        )
    least = int(np.argmin(smoothed))
    end = next((place for place in range(least, finite) if smoothed[place] > DIVERGED * smoothed[0]), finite)
    diverged = rates[end] if end < len(rates) else None
    # Smoothed once more: of two steps beside each other, the difference is mostly that of their examples.
    slopes = np.gradient(smooth(smoothed), np.log(rates[:finite]))[: least + 1]
    fell = smoothed[least] < (1 - FLAT) * smoothed[0]
    steepest = rates[int(np.argmin(slopes))] if fell else None
    return Sweep(
        rates=list(rates),
        losses=list(losses),
        smoothed=smoothed,
        steepest=steepest,
        lowest=rates[least] if fell else None,
        diverged=diverged,
        suggestion=rates[least] / MARGIN if fell else None,
    )


def smooth(losses: Sequence[float]) -> list[float]:
    """The mean of the losses around each step; fewer of them at both ends."""
    window = np.ones(WINDOW)
    counts = np.convolve(np.ones(len(losses)), window)
    summed = np.convolve(np.asarray(losses, dtype=float), window)
    middle = slice(WINDOW // 2, WINDOW // 2 + len(losses))
    return [float(mean) for mean in (summed / counts)[middle]]


def picture(sweep: Sweep) -> bytes:
    """The sweep as a PNG: the loss over the learning rate, and the rates that stand out."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogx(sweep.rates, sweep.losses, color="#c2691a", alpha=0.4, linewidth=1, label="loss of a step")
    axes.semilogx(sweep.rates[: len(sweep.smoothed)], sweep.smoothed, color="#0b7285", linewidth=2, label="smoothed")
    for name, rate in (("suggestion", sweep.suggestion), ("lowest", sweep.lowest), ("diverged", sweep.diverged)):
        if rate is not None:
            axes.axvline(rate, color="#1b2733", linewidth=1, linestyle=":")
            axes.annotate(f" {name} {rate:.1e}", (rate, 1), xycoords=("data", "axes fraction"), rotation=90, va="top")
    low = min(sweep.smoothed)
    shown = max(sweep.smoothed[0] - low, FLAT * low, 1e-6)
    axes.set_ylim(low - 0.3 * shown, low + 1.6 * shown)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss (nats a token)")
    axes.legend(loc="lower left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


class _Watcher(TrainerCallback):
    """Keeps each step's rate and loss, and ends the sweep where it is plain that it diverges."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        """A step's numbers."""
        if not logs or "learning_rate" not in logs:
            return
        self.rates.append(logs["learning_rate"])
        self.losses.append(logs["loss"])
        rate, loss = self.rates[-1], self.losses[-1]
        self.progress.step("Sweeping", len(self.rates), STEPS, f"learning rates, {rate:.1e} with loss {loss:.3f}")
        if not math.isfinite(loss) or np.mean(self.losses[-3:]) > ENDS * np.mean(self.losses[:WINDOW]):
            control.should_training_stop = True
