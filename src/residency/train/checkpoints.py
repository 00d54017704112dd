"""Checkpoints that are whole or absent, and the one to go on from.

transformers writes a checkpoint straight into its place, where a kill leaves half of one. Here it is written under a
temporary name, every file is synced, a manifest names each with its sha256 and what the checkpoint was made from, and
only then is it renamed.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState, TrainerState

from residency import environment, ranks
from residency.changes import changes, important
from residency.errors import UserError, listed
from residency.recipe import Recipe
from residency.train.distributed import RankedTrainer, replacing
from residency.workspace import MANIFEST, Run, sha256

FOLDER = "checkpoints"
METRICS = "metrics.jsonl"
NEEDS = ("step", "over", "recipe", "data", "files")
LEARNT_FROM = ("data/train.jsonl", "data/validation.jsonl")
KEPT = 2


class CommittedCheckpoints(RankedTrainer):
    """A trainer whose checkpoints are committed as a whole, with the metrics up to them, and rotated by step.

    Of several ranks the first writes and commits; each adds the state of its random numbers.

    `origin` goes into each manifest; `metrics` is the file that is copied along; the last `kept` stay, and the best.
    """

    def __init__(
        self, *, origin: dict[str, Any] | None = None, metrics: Path | None = None, kept: int = KEPT, **options: Any
    ) -> None:
        super().__init__(**options)
        self.origin, self.metrics, self.kept = origin or {}, metrics, kept

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder, step = Path(self.args.output_dir), self.state.global_step  # type: ignore[arg-type]
        folder.mkdir(parents=True, exist_ok=True)
        self.store_flos()
        with replacing(place(folder, step)) as made:
            self.save_model(str(made), _internal_call=True)
            self._save_optimizer_and_scheduler(str(made))
            self._save_scaler(str(made))
            self._save_rng_state(str(made))
            self._note_callbacks()
            ranks.wait()
            if ranks.first():
                self._commit(made)
        if ranks.first():
            self._rotate(folder)

    def _commit(self, made: Path) -> None:
        """Add what the first rank alone knows, and seal what all have written."""
        (made / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nobody reads
        self.state.save_to_json(str(made / TRAINER_STATE_NAME))
        if self.metrics:
            shutil.copyfile(self.metrics, made / METRICS)
        # Over: going on from here would train past the end, be it the last step or a callback's decision.
        over = self.control.should_training_stop
        Run(made).seal(step=self.state.global_step, over=over, **self.origin)

    def load_weights(self, checkpoint: Path) -> Any:
        """Put a checkpoint's weights into the model, and return it."""
        self._load_from_checkpoint(str(checkpoint))
        return self.model

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with _plain(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _plain(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _plain(checkpoint):
            super()._load_rng_state(checkpoint)

    def _note_callbacks(self) -> None:
        """Patience and the like belong to the state that is saved."""
        states: dict[str, list[Any]] = {}
        for part in [*self.callback_handler.callbacks, self.control]:
            if isinstance(part, ExportableState):
                states.setdefault(type(part).__name__, []).append(part.state())
        noted: Any = {name: own if own[1:] else own[0] for name, own in states.items()}
        self.state.stateful_callbacks = noted

    def _rotate(self, folder: Path) -> None:
        """The newest stays, and the best, and the last few that came when they were due; not those of a stop."""
        found = steps(folder)
        due = [step for step in found if step % self.state.save_steps == 0 or step >= self.state.max_steps]
        kept = {found[-1], self.state.best_global_step, *due[-self.kept :]}
        for step in found:
            if step not in kept:
                discard(place(folder, step))


@contextmanager
def _plain(checkpoint: str | None) -> Iterator[None]:
    """What torch refuses to unpickle in a checkpoint, as the user's error.

    Raises:
        UserError: a file holds more than plain tensors.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":  # of pickle, which nothing here imports
            raise
        raise UserError(
            f"{checkpoint}: can't be read (a file in it holds more than plain tensors)",
            "a checkpoint that residency wrote",
            "remove it; --resume then goes on from the one before",
        ) from error


class BestAtHand(TrainerCallback):
    """When training goes on, looks whether the best checkpoint so far is still whole; see `refind_best`."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Runs once the state has been read from the checkpoint."""
        refind_best(state, Path(args.output_dir), args.metric_for_best_model, self.tell)


def origin_of(recipe: Recipe, run: Run, continued_from: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a checkpoint is made from: the recipe's fields that matter, the data, the first weights, the versions."""
    data = {name: _content(run.need(name, "prepare")) for name in LEARNT_FROM}
    made = {"recipe": important(recipe), "data": data, "continued_from": continued_from}
    return made | {"versions": environment.describe()}


def newest(folder: Path, tell: Callable[[str], None] = lambda _: None) -> Path | None:
    """The newest whole checkpoint in a folder, or none; `tell` hears of each damaged one that is passed over."""
    for step in reversed(steps(folder)):
        checkpoint = place(folder, step)
        fault = fault_of(checkpoint)
        if not fault:
            return checkpoint
        tell(f"{checkpoint} is damaged and passed over: {fault}")
    return None


def fault_of(checkpoint: Path) -> str:
    """What is wrong with a checkpoint; empty where every file is as its manifest says."""
    if not checkpoint.is_dir():
        return "not there"
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text("utf-8"))
        absent = [key for key in NEEDS if key not in manifest]
        return f"{MANIFEST} names no {absent[0]}" if absent else next(iter(Run(checkpoint).verify()), "")
    except FileNotFoundError:
        return f"{MANIFEST} is missing: it was cut short"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    except (ValueError, TypeError, AttributeError, KeyError):
        return f"{MANIFEST} is damaged"


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint: step, over, recipe, data, continued_from, files."""
    found: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text("utf-8"))
    return found


def state_of(checkpoint: Path) -> TrainerState:
    """The trainer's state in a whole checkpoint."""
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return state


def refuse_changed(recipe: Recipe, run: Run) -> None:
    """Nothing, where what training would go on from comes from this recipe and the data that lies in the run.

    Raises:
        UserError: a field of the recipe that matters, or the data, is another one; the message shows was and is.
    """
    checkpoint, was = _newest_manifest(run.folder / FOLDER)
    found: list[str] = []
    if checkpoint:
        now = origin_of(recipe, run)
        found = changes(was["recipe"], now["recipe"]) + changes(was["data"], now["data"])
    elif (run.folder / "train.json").is_file():
        found = changes(important(run.recipe), important(recipe))
    if found:
        raise UserError(
            f"{checkpoint or run.folder}: comes from another recipe or other data ({listed(found, 6)})",
            "the same ones",
            "go back to them, or train anew without --resume; train.continue_from begins anew from its weights",
        )


def _newest_manifest(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """What the newest checkpoint says of itself, before the time is spent to see whether it is whole."""
    for step in reversed(steps(folder)):
        with suppress(OSError, ValueError):
            found = manifest_of(place(folder, step))
            if all(key in found for key in NEEDS):
                return place(folder, step), found
    return None, {}


def tidy(folder: Path, going_on: Path) -> None:
    """Clear what a kill left half-written, and set aside the damaged checkpoints that are newer than the chosen one."""
    for leftover in folder.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for step in steps(folder):
        if step > step_of(going_on):
            aside = folder / f"damaged-{step}"
            shutil.rmtree(aside, ignore_errors=True)
            place(folder, step).replace(aside)


def refind_best(state: TrainerState, folder: Path, metric: str, tell: Callable[[str], None]) -> None:
    """Where the best checkpoint so far is lost or damaged, the best from here on is sought instead, and that is told.

    `metric` is the name that the trainer judges by, such as `eval_loss`.
    """
    best = state.best_global_step
    fault = fault_of(place(folder, best)) if best else ""
    if fault:
        rows = [row for row in state.log_history if row["step"] == state.global_step and metric in row]
        state.best_metric = rows[-1][metric] if rows else None
        state.best_global_step = state.global_step if rows else None
        tell(
            f"{place(folder, best or 0)}, the best so far, can't be used: {fault}; "
            f"the best from step {state.global_step} on is taken"
        )


def discard(checkpoint: Path) -> None:
    """Remove a folder so that a kill half-way leaves nothing under its name."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    if checkpoint.is_dir():
        checkpoint.replace(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def place(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was made at."""
    return int(checkpoint.name.rpartition("-")[2])


def last_due(folder: Path, every: int, end: int, count: int) -> list[Path]:
    """The last whole checkpoints that came when they were due, oldest first; the one of the end counts as due."""
    due = [step for step in steps(folder) if step % every == 0 or step == end]
    whole = [place(folder, step) for step in due if not fault_of(place(folder, step))]
    return whole[-count:]


def steps(folder: Path) -> list[int]:
    """The steps that there are checkpoints of, whole or not, in order."""
    return sorted(step_of(path) for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name))


def _content(file: Path) -> str:
    """Rows and hash of a JSONL file, short enough to be shown."""
    with file.open("rb") as lines:
        return f"{sum(1 for _ in lines)} rows with sha256 {sha256(file)[:16]}"
