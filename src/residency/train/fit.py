"""The training stage: model, adapters and arguments put together, run, and the result saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback

from residency import environment, models, origin, ranks
from residency.errors import UserError
from residency.progress import Progress, Silent
from residency.prompts import Example, Prompt
from residency.recipe import Recipe
from residency.train import adapters, checkpoints, fitting, loop, merge, schedules, sharded, start, trackers
from residency.train.best import Judge
from residency.train.guard import Guard, restore
from residency.train.objective import objective_of
from residency.train.planning import Forecast, forecast_here, gib, job_of
from residency.train.results import Ending, TrainReport, report_of
from residency.train.setup import (
    WAITS,
    Setup,
    arguments,
    build_model,
    dither_learning,
    examples_of,
    say_dithered,
    setup_of,
)
from residency.train.steps import places_of
from residency.train.stopping import told_plainly
from residency.train.trainer import Counts, Recorder, ResidencyTrainer
from residency.workspace import Run, replacing

START = f"{checkpoints.FOLDER}/start"


def train(
    recipe: Recipe,
    run: Run,
    prompt: Prompt,
    progress: Progress | None = None,
    resume: bool = False,
    *,
    judge: Judge | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainReport:
    """Fine-tune the recipe's model on the run's prepared data; leaves `model/` (merged) and for adapters `adapter/`.

    `judge` answers validation questions where `train.best_by` asks for it; `callbacks` are called as transformers does.

    Raises:
        UserError: the data was not prepared, a setting does not fit the model, the disk is full, memory ran out,
            merging changes what the model says, or the loss diverged before there was a checkpoint to fall back on.
        Interrupted: stopped by the user; `resume` goes on from the last checkpoint, or begins where there is none.
    """
    progress = progress or Silent()
    environment.keep_freed_memory()
    ranks.join(WAITS)
    objective = objective_of(recipe, run, prompt, progress)
    examples, validation = examples_of(recipe, run, prompt)
    setup = setup_of(recipe, [*map(len, examples)])
    longest = max(map(len, examples))
    with trackers.offline(recipe.train.trackers, run.folder), told_plainly(run, setup.tokens_per_batch, longest):
        options = arguments(recipe, run, setup, validated=bool(validation))
        checkpoint = loop.resumable(run, progress) if resume else None
        begun = start.find(recipe, run) if checkpoint is None else None
        forecast = _foreseen(recipe, setup, examples, validation, progress)
        model, dithered = _begin(recipe, begun, setup, progress)
        continued_from = _continued_from(checkpoint, begun)
        if checkpoint is None:
            run.forget(checkpoints.FOLDER)  # of an earlier training: this one must not go on from them
        _keep_start(model, recipe, run)
        trainer = objective.trainer(
            model=model,
            args=options,
            train_dataset=examples,
            eval_dataset=validation or None,
            validation=validation,
            pad_id=prompt.tokenizer.pad_token_id or 0,
            **setup.going,
            judge=judge,
            callbacks=[*callbacks],
            origin=checkpoints.origin_of(recipe, run, continued_from),
            metrics=run.path(checkpoints.METRICS),
            rate=schedules.factor(recipe.train, setup.steps),
            tell=progress.say,
        )
        ending = _go(trainer, recipe, run, progress, checkpoint)
        preference = objective.measured(trainer)
        agreement = _save(trainer, recipe, run, prompt, validation or examples)
        report = report_of(trainer, setup, forecast, ending, agreement, dithered=dithered)
        made_from = origin.made_from(origin.of_model(recipe.model), recipe.train.seed)
        report = replace(report, continued_from=continued_from, preference=preference, made_from=made_from)
        run.write_json("train.json", asdict(report))
    loop.end(run)
    return report


def _go(trainer: ResidencyTrainer, recipe: Recipe, run: Run, progress: Progress, checkpoint: Path | None) -> Ending:
    """Train to the end, watched, and put the weights that training ends with into the model."""
    metrics = _record(trainer, run, progress, checkpoint)
    guard = Guard(metrics, progress, lambda step: _rows(run, recipe, step))
    trainer.add_callback(guard)
    if recipe.train.patience and trainer.validation:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=recipe.train.patience))
    loop.go(trainer, checkpoint, progress)
    stopped = restore(trainer, guard.watch) if guard.watch.fatal else None
    if stopped:
        progress.say(f"The model is that of step {stopped.restored_step}, from before the trouble")
    chosen = {} if stopped else loop.keep(trainer, recipe, progress)
    return Ending(metrics, guard.findings(), stopped, chosen)


def fitted(recipe: Recipe, run: Run, prompt: Prompt) -> Recipe:
    """The recipe itself where this machine has the memory for it, or the nearest one whose run fits.

    Raises:
        UserError: none does.
    """
    examples, validation = examples_of(recipe, run, prompt)
    setup = setup_of(recipe, [*map(len, examples)])
    free = fitting.free_memory(setup.device)
    found = fitting.fitted(recipe, setup, examples, validation, free)
    if found is None:
        raise UserError(f"no setting of this model fits into the {gib(free)} that can be had", "", "a smaller model")
    return found


def _foreseen(
    recipe: Recipe, setup: Setup, examples: Sequence[Example], validation: Sequence[Example], progress: Progress
) -> Forecast:
    """What the run will take, told before anything large is loaded; one that will not fit is refused."""
    forecast = forecast_here(job_of(recipe, setup, examples, validation), setup.device)
    progress.table("Model and run", forecast.rows())
    fitting.refuse(recipe, setup, forecast.memory, examples, validation)
    return forecast


def _begin(recipe: Recipe, begun: start.Start | None, setup: Setup, progress: Progress) -> tuple[Any, float]:
    """The model to train, with the weights of an earlier training where the recipe names one, and what is dithered."""
    if begun:
        progress.say(f"Training goes on from the {begun.kind} in {begun.folder}")
    model = build_model(begun.under(recipe) if begun else recipe, setup, progress)
    if begun:
        begun.fill(model, recipe)
    return model, dither_learning(model, recipe.train, progress)


def _continued_from(checkpoint: Path | None, begun: start.Start | None) -> dict[str, Any] | None:
    """What training began with, also after a resume, when that may be there no longer."""
    if checkpoint is None:
        return begun.as_dict() if begun else None
    found: dict[str, Any] | None = checkpoints.manifest_of(checkpoint).get("continued_from")
    return found


def _record(trainer: ResidencyTrainer, run: Run, progress: Progress, checkpoint: Path | None) -> list[dict[str, Any]]:
    """Write each row of metrics as it comes, and tell the progress; returns the growing list of rows.

    A checkpoint brings the rows up to it: what a kill tore or left after it is written anew.
    """
    path = run.path(checkpoints.METRICS)
    metrics: list[dict[str, Any]] = []
    if checkpoint:
        metrics = [json.loads(line) for line in (checkpoint / checkpoints.METRICS).read_text("utf-8").splitlines()]
        trainer.counts = Counts(**{count.name: metrics[-1].get(count.name, 0) for count in fields(Counts)})
    run.write_jsonl(checkpoints.METRICS, metrics)
    validation = ""

    def record(row: dict[str, Any]) -> None:
        nonlocal validation
        metrics.append(row)
        if ranks.first():
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if "validation_loss" in row:
            validation = f", validation {row['validation_loss']:.3f}"
            return
        speed = f", {row['tokens_per_second']:,.0f} tokens/s" if row["tokens_per_second"] else ""
        progress.step(
            "Training", row["step"], trainer.args.max_steps, f"steps, loss {row['loss']:.3f}{validation}{speed}"
        )

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Recorder(lambda: trainer.counts, record, metrics[-1]["seconds"] if metrics else 0.0))
    return metrics


def _keep_start(model: Any, recipe: Recipe, run: Run) -> None:
    """The adapter before its first step, where its variant took its start out of the base's weights."""
    changes_it = recipe.train.method == "lora" and recipe.train.lora.variant in adapters.CHANGES_THE_BASE
    if changes_it and ranks.first():
        with models.quiet_libraries():
            model.save_pretrained(str(run.path(START)))


def _save(
    trainer: ResidencyTrainer, recipe: Recipe, run: Run, prompt: Prompt, examples: Sequence[Example]
) -> merge.Agreement | None:
    """The best model as plain transformers loads it, merged in float32; the adapter apart. The first rank writes."""
    weights = sharded.whole(trainer.model) if trainer.is_fsdp_enabled else None  # gathered, where none holds all
    if not ranks.first():
        return None
    model, adapter, agreement = trainer.model, run.path("adapter"), None
    if recipe.train.method in adapters.ON_A_BASE:
        start = str(run.path(START)) if run.path(START).is_dir() else None
        with replacing(adapter) as folder, models.quiet_libraries():
            given = {"state_dict": weights} if weights is not None else {}
            trainer.model.save_pretrained(str(folder), path_initial_model_for_weight_conversion=start, **given)
        _let_go(trainer, whole=weights is None)
        model, agreement = merge.merged(recipe, adapter, examples, trainer.pad_id)
        say_dithered(agreement.dithered, trainer.tell, "under the adapter ")
    model.generation_config.eos_token_id = prompt.stop_ids
    model.generation_config.pad_token_id = prompt.tokenizer.pad_token_id
    with replacing(run.path("model")) as folder, models.quiet_libraries():
        if recipe.train.method == "prompt-tuning":
            merge.save_on_base(model, recipe, adapter, folder)
        else:
            model.save_pretrained(folder, state_dict=weights if model is trainer.model else None)
        prompt.tokenizer.save_pretrained(folder)
    return agreement


def _let_go(trainer: ResidencyTrainer, *, whole: bool) -> None:
    """Free what was trained, whoever still refers to it: the base is loaded once more, to be merged."""
    trainer.optimizer = None
    trainer.accelerator.free_memory()  # which holds the optimizer too
    for parameter in trainer.model.parameters() if whole else ():
        parameter.grad = None
        parameter.data = parameter.data.new_empty(0)
    environment.give_back_memory(collect=False)


def _rows(run: Run, recipe: Recipe, step: int) -> list[int]:
    """The source's rows that a step learnt from."""
    dialogues = run.dialogues("train")
    places = places_of(step, recipe.train.examples_per_step, len(dialogues), recipe.train.seed)
    return sorted({dialogues[place].row for place in places})
