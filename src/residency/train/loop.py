"""The course of a training: what it goes on from, how it runs to its end or stops, and what it ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from residency import environment, models, ranks
from residency.changes import changes
from residency.errors import Interrupted, listed
from residency.progress import Progress
from residency.recipe import Recipe
from residency.train import checkpoints
from residency.train.best import average
from residency.train.stopping import Stopper
from residency.train.trainer import ResidencyTrainer
from residency.workspace import Run


def resumable(run: Run, progress: Progress) -> Path | None:
    """The newest whole checkpoint, the folder tidied; none where training was stopped before its first."""
    folder = run.folder / checkpoints.FOLDER
    found = ranks.told(lambda: _newest(folder, progress))
    if found is None:
        progress.say("No checkpoint to go on from: training starts at the beginning")
    return found


def _newest(folder: Path, progress: Progress) -> Path | None:
    found = checkpoints.newest(folder, progress.say)
    if found:
        checkpoints.tidy(folder, found)
        other = changes(checkpoints.manifest_of(found).get("versions", {}), environment.describe())
        if other:
            progress.say(f"{found} was made elsewhere, so that bits may differ from here on: {listed(other, 4)}")
    return found


def go(trainer: ResidencyTrainer, checkpoint: Path | None, progress: Progress) -> None:
    """Train to the end, unless a checkpoint is of the end already; the user may stop it."""
    stopper, best = Stopper(progress.say), checkpoints.BestAtHand(progress.say)
    trainer.add_callback(stopper)
    trainer.add_callback(best)
    try:
        with stopper.listening(), models.quiet_libraries():
            if checkpoint and checkpoints.manifest_of(checkpoint)["over"]:
                trainer.load_weights(checkpoint)
                trainer.state = checkpoints.state_of(checkpoint)
                best.on_train_begin(trainer.args, trainer.state, trainer.control)
            else:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        stopper.asked = True
    if stopper.asked:
        raise Interrupted(f"training stopped at step {trainer.state.global_step} of {trainer.args.max_steps}")


def keep(trainer: ResidencyTrainer, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """Put the weights that training ends with into the model: the best, or the mean of the last; what they are."""
    chosen: dict[str, Any] = {"best_by": recipe.train.best_by, "best_value": trainer.state.best_metric}
    folder, state = Path(trainer.args.output_dir or ""), trainer.state
    with models.quiet_libraries():
        if recipe.train.average_last:
            last = checkpoints.last_due(
                folder, int(trainer.args.save_steps), state.global_step, recipe.train.average_last
            )
            average(trainer.load_weights, last)
            loss = trainer.validation_loss() if trainer.validation else None
            return {
                **chosen,
                "averaged": [checkpoints.step_of(path) for path in last],
                "averaged_validation_loss": loss,
            }
        best = checkpoints.place(folder, state.best_global_step) if state.best_global_step else None
        fault = checkpoints.fault_of(best) if best else ""
        if fault:
            progress.say(f"{best}, the best, can't be used: {fault}; the last weights are kept")
        elif best:
            trainer.load_weights(best)
    return chosen


def end(run: Run) -> None:
    """Checkpoints are of no more use; one process of several takes them away."""
    if ranks.first():
        checkpoints.discard(run.folder / checkpoints.FOLDER)
