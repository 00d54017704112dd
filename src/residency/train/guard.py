"""Training watched while it runs: what the curves warn of is said at once, and what can only get worse stops it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from residency import ranks
from residency.errors import UserError, listed
from residency.models import quiet_libraries
from residency.progress import Progress
from residency.train import checkpoints
from residency.train.watch import ADVICE, Curves, Finding, Watch

DEAD_AFTER = 10  # updates with a learning rate above zero; a matrix that begins at zero leaves it with the first


@dataclass(frozen=True)
class Stopped:
    """Why a run was stopped before its end, at which step, and from which step the weights are that were kept."""

    stopped_by: str
    stopped_at: int
    restored_step: int


class Guard(TrainerCallback):
    """Says each finding once, as soon as it holds, and stops a run whose loss diverges or is no number.

    `metrics` is the list that grows by a row a step: the guard has to be called after what fills it. `rows_of` gives
    the source's rows in a step. What is in `metrics` at the start was said before the run was stopped and resumed.
    """

    def __init__(
        self, metrics: list[dict[str, Any]], progress: Progress, rows_of: Callable[[int], Sequence[int]]
    ) -> None:
        self.metrics, self.progress, self.rows_of = metrics, progress, rows_of
        self.watch = Watch()
        self.said = {finding.kind for row in metrics for finding in self.watch.see(row)}
        self.seen, self.checked = len(metrics), False

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """How long the run is to be."""
        self.watch.curves.planned = state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        """Look at the rows that are new."""
        new, self.seen = self.metrics[self.seen :], len(self.metrics)
        for row in new:
            self._say(self.watch.see(row))
        self._look_at_adapters(model, state.global_step)
        if self.watch.fatal:
            control.should_training_stop = True
            control.should_evaluate = control.should_save = False
        elif args.eval_strategy == IntervalStrategy.NO and self.watch.curves.outside:
            control.should_save = False  # the last good checkpoint must not give way to this one

    def findings(self) -> list[Finding]:
        """What the whole training showed; what is new in it is said."""
        found = [self._with_rows(finding) for finding in self.watch.findings()]
        self._say(found)
        return found

    def _say(self, found: Sequence[Finding]) -> None:
        for finding in map(self._with_rows, found):
            if finding.kind not in self.said:
                rows = f" Rows: {listed(map(str, finding.rows))}." if finding.rows else ""
                self.progress.say(f"{finding.kind} at step {finding.step}: {finding.advice}{rows}")
            self.said.add(finding.kind)

    def _with_rows(self, finding: Finding) -> Finding:
        return replace(finding, rows=tuple(self.rows_of(finding.step))) if finding.kind.endswith("-spike") else finding

    def _look_at_adapters(self, model: Any, step: int) -> None:
        if self.checked or sum(row.get("learning_rate", 0) > 0 for row in self.metrics) < DEAD_AFTER:
            return
        self.checked = True
        dead, total = dead_adapters(model)
        if dead:
            advice = (
                f"{len(dead)} of {total} adapters have learnt nothing ({listed(dead, 3)}): {ADVICE['dead-adapters']}"
            )
            self.watch.events.append(Finding("dead-adapters", step, advice))
            self._say(self.watch.events[-1:])


def dead_adapters(model: torch.nn.Module) -> tuple[list[str], int]:
    """Modules whose low-rank update is still zero, and how many have one. LoRA begins there: B is zero."""
    factors: dict[str, list[torch.Tensor]] = {}
    for name, weight in model.named_parameters():
        module, found, _ = name.partition(".lora_")
        if found and "magnitude" not in name:  # DoRA's, which is no factor
            factors.setdefault(module.removeprefix("base_model.model."), []).append(weight)
    return [module for module, own in factors.items() if any(not _whole(w).any() for w in own)], len(factors)


def _whole(weight: Any) -> torch.Tensor:
    """A weight of which each rank holds a part, gathered; any other as it is."""
    found: torch.Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return found


def restore(trainer: Any, watch: Watch) -> Stopped:
    """Put the last good weights back into the model of a run that was stopped for a fault.

    They are the best by validation where there is one, else those of the newest whole checkpoint; checkpoints from the
    trouble on are removed first.

    Raises:
        UserError: there is no checkpoint from before the trouble.
    """
    finding = watch.fatal
    assert finding is not None
    checkpoint = ranks.told(lambda: _before(trainer, last_good(watch.curves, finding)))
    if checkpoint is None:
        raise UserError(
            f"training stopped by {finding.kind} at step {finding.step} of {trainer.state.max_steps}, "
            "and there is no checkpoint from before it",
            fix=f"{finding.advice.removesuffix('.')} (train.learning_rate is {trainer.args.learning_rate:g})",
        )
    with quiet_libraries():
        trainer.load_weights(checkpoint)
    return Stopped(finding.kind, trainer.state.global_step, checkpoints.step_of(checkpoint))


def _before(trainer: Any, good: int) -> Path | None:
    """The checkpoint to fall back on, none of which is from after the step `good`; the others are removed."""
    folder = Path(trainer.args.output_dir)
    for step in checkpoints.steps(folder):
        if step > good:
            checkpoints.discard(checkpoints.place(folder, step))
    best = checkpoints.place(folder, trainer.state.best_global_step or 0)
    checkpoint = best if best.is_dir() and not checkpoints.fault_of(best) else checkpoints.newest(folder)
    if checkpoint is None:
        checkpoints.discard(folder)
    return checkpoint


def last_good(curves: Curves, finding: Finding) -> int:
    """The last step after which the weights were shown to be good: by the next step's loss, or by validation.

    A loss that is no number may come after some that are only too large: those don't count as good either.
    """
    level, factor = curves.good(finding.kind)
    best = min([loss for _, loss in curves.validations] + curves.losses[:1])  # not worse than where it began, either
    by_loss = [step - 1 for step, loss in zip(curves.steps, curves.losses, strict=True) if loss <= level]
    by_validation = [step for step, loss in curves.validations if loss <= factor * best]
    return max([*by_loss, *by_validation], default=0)
