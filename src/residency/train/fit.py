"""The training stage: model, adapters and arguments put together, run, and the result saved."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments

from residency import environment, models
from residency.errors import UserError
from residency.forecast.speed import matrix_product_speed
from residency.progress import Progress, Silent
from residency.prompts import Example, Prompt
from residency.recipe import Recipe
from residency.train import checkpoints, fitting, loop, start, trackers
from residency.train.best import Judge, choosing
from residency.train.guard import Guard, Stopped, restore
from residency.train.planning import VALIDATIONS_PER_EPOCH, Forecast, forecast_here, gib, job_of
from residency.train.steps import places_of
from residency.train.stopping import told_plainly
from residency.train.trainer import Counts, Recorder, ResidencyTrainer
from residency.train.watch import Finding
from residency.workspace import Run, replacing

CPU_TOKENS = 1024  # measured: larger micro-batches fall out of a CPU's caches and are slower
GPU_TOKENS = 16384


@dataclass(frozen=True)
class Setup:
    """How this machine goes through the recipe's steps."""

    precision: str
    device: torch.device
    steps: int
    steps_per_epoch: int
    tokens_per_batch: int


@dataclass(frozen=True)
class TrainReport:
    """What training took and what it reached. Seconds, bytes, tokens; losses in nats a token.

    `best_value` is what `best_by` was at `best_step`. Where `averaged` names steps, the model is the mean of them.
    Where a fault stopped it, `stopped_by` names the finding, and the model is that of `restored_step`.
    """

    method: str
    steps: int
    examples: int
    answer_tokens: int
    total_tokens: int
    padding_share: float
    seconds: float
    tokens_per_second: float
    mfu: float
    peak_memory_bytes: int
    precision: str
    device: str
    best_step: int
    best_validation_loss: float | None
    stopped_early: bool
    stopped_by: str | None
    stopped_at: int | None
    restored_step: int | None
    diagnosis: list[Finding]
    summary: dict[str, Any]
    environment: dict[str, str]
    best_by: str = "loss"
    best_value: float | None = None
    averaged: list[int] = field(default_factory=list)
    averaged_validation_loss: float | None = None
    continued_from: dict[str, Any] | None = None
    forecast: dict[str, dict[str, float]] = field(default_factory=dict)


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
    """Fine-tune the recipe's model on the run's prepared data; leaves `model/` (merged) and, for LoRA, `adapter/`.

    `judge` answers validation questions where `train.best_by` asks for it; `callbacks` are called as transformers does.

    Raises:
        UserError: the data was not prepared, a setting does not fit the model, the disk is full, memory ran out, or the
            loss diverged before there was a checkpoint to fall back on.
        Interrupted: stopped by the user; `resume` goes on from the last checkpoint, or begins where there is none.
    """
    progress = progress or Silent()
    environment.keep_freed_memory()
    examples, validation = examples_of(recipe, run, prompt)
    setup = _setup(recipe, len(examples))
    longest = max(map(len, examples))
    with trackers.offline(recipe.train.trackers, run.folder), told_plainly(run, setup.tokens_per_batch, longest):
        arguments = _arguments(recipe, run, setup, validated=bool(validation))
        checkpoint = loop.resumable(run, progress) if resume else None
        begun = start.find(recipe, run) if checkpoint is None else None
        forecast = _foreseen(recipe, setup, examples, validation, progress)
        model = _begin(recipe, begun, setup, progress)
        continued_from = _continued_from(checkpoint, begun)
        if checkpoint is None:
            run.forget(checkpoints.FOLDER)  # of an earlier training: this one must not go on from them
        trainer = ResidencyTrainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            eval_dataset=validation or None,
            validation=validation,
            pad_id=prompt.tokenizer.pad_token_id or 0,
            tokens_per_batch=setup.tokens_per_batch,
            judge=judge,
            callbacks=[*callbacks],
            origin=checkpoints.origin_of(recipe, run, continued_from),
            metrics=run.path(checkpoints.METRICS),
            kept=max(checkpoints.KEPT, recipe.train.average_last or 0),
        )
        metrics = _record(trainer, run, progress, checkpoint)
        guard = Guard(metrics, progress, lambda step: _rows(run, recipe, step))
        _watch(trainer, guard, recipe.train.patience)
        loop.go(trainer, checkpoint, progress)
        stopped = _restored(trainer, guard, progress)
        ending = {} if stopped else loop.keep(trainer, recipe, progress)
        _save(trainer, recipe, run, prompt)
        report = _report(trainer, setup, forecast, metrics, diagnosis=guard.findings(), stopped=stopped)
        report = replace(report, **ending, continued_from=continued_from)
        run.write_json("train.json", asdict(report))
    checkpoints.discard(run.folder / checkpoints.FOLDER)
    return report


def _watch(trainer: ResidencyTrainer, guard: Guard, patience: int) -> None:
    trainer.add_callback(guard)
    if patience and trainer.validation:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=patience))


def _restored(trainer: ResidencyTrainer, guard: Guard, progress: Progress) -> Stopped | None:
    stopped = restore(trainer, guard.watch) if guard.watch.fatal else None
    if stopped:
        progress.say(f"Training stopped; the model is that of step {stopped.restored_step}, from before the trouble")
    return stopped


def _foreseen(
    recipe: Recipe, setup: Setup, examples: Sequence[Example], validation: Sequence[Example], progress: Progress
) -> Forecast:
    forecast = forecast_here(job_of(recipe, setup, examples, validation), setup.device)
    progress.table("Model and run", forecast.rows())
    fitting.refuse(recipe, setup, forecast.memory, examples, validation)
    return forecast


def fitted(recipe: Recipe, run: Run, prompt: Prompt) -> Recipe:
    """The recipe itself where this machine has the memory for it, or the nearest one whose run fits.

    Raises:
        UserError: none does.
    """
    examples, validation = examples_of(recipe, run, prompt)
    setup = _setup(recipe, len(examples))
    free = fitting.free_memory(setup.device)
    found = fitting.fitted(recipe, setup, examples, validation, free)
    if found is None:
        raise UserError(f"no setting of this model fits into the {gib(free)} that can be had", "", "a smaller model")
    return found


def examples_of(recipe: Recipe, run: Run, prompt: Prompt) -> tuple[Sequence[Example], Sequence[Example]]:
    """The examples of training and validation, in tokens."""
    training, validation = (
        prompt.examples(((d.question, d.answer, d.before) for d in run.dialogues(split)), recipe.model.max_length)
        for split in ("train", "validation")
    )
    return training, validation


def _begin(recipe: Recipe, begun: start.Start | None, setup: Setup, progress: Progress) -> Any:
    """The model to train, with the weights of an earlier training where the recipe names one."""
    if begun is None:
        return _model(recipe, setup, progress)
    progress.say(f"Training goes on from the {begun.kind} in {begun.folder}")
    model = _model(begun.under(recipe), setup, progress)
    begun.fill(model, recipe)
    return model


def finished(run: Run) -> TrainReport | None:
    """The report of a training that has come to its end in this folder; none where it has not."""
    if not (run.folder / "train.json").is_file():
        return None
    found = run.read_json("train.json", "train")
    checkpoints.discard(run.folder / checkpoints.FOLDER)  # a kill may have left them
    return TrainReport(**{**found, "diagnosis": [Finding(**finding) for finding in found["diagnosis"]]})


def _continued_from(checkpoint: Path | None, begun: start.Start | None) -> dict[str, Any] | None:
    """What training began with, also after a resume, when that may be there no longer."""
    if checkpoint is None:
        return begun.as_dict() if begun else None
    found: dict[str, Any] | None = checkpoints.manifest_of(checkpoint).get("continued_from")
    return found


def _setup(recipe: Recipe, examples: int) -> Setup:
    """bf16 where the processor computes in it, micro-batches of a size that this device is fast at."""
    section, device = recipe.train, models.device()
    fast = "bf16" if models.computes_bf16() else "fp32"
    default = GPU_TOKENS if device.type == "cuda" else CPU_TOKENS
    steps_per_epoch = math.ceil(examples / section.examples_per_step)
    return Setup(
        precision=fast if section.precision == "auto" else section.precision,
        device=device,
        steps=section.max_steps or math.ceil(section.epochs * steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        tokens_per_batch=default if section.tokens_per_batch == "auto" else section.tokens_per_batch,
    )


def _model(recipe: Recipe, setup: Setup, progress: Progress) -> Any:
    """The model to train: frozen weights may be bf16, weights that learn stay in float32 and are cast as they go."""
    frozen = recipe.train.method == "lora"
    dtype = torch.bfloat16 if setup.precision == "bf16" and frozen else torch.float32
    attention = recipe.model.attention
    if attention == "auto":
        attention = "eager" if setup.device.type == "cpu" else "sdpa"
    torch.manual_seed(recipe.train.seed)
    model = models.load_base(recipe.model, dtype, attention, progress)
    return models.attach_lora(model, recipe.train.lora) if frozen else model


def _arguments(recipe: Recipe, run: Run, setup: Setup, *, validated: bool) -> TrainingArguments:
    section = recipe.train
    every = section.evaluate_every or max(1, round(setup.steps_per_epoch / VALIDATIONS_PER_EPOCH))
    warmup = section.warmup if section.warmup >= 1 else math.ceil(section.warmup * setup.steps)
    schedules = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
    return TrainingArguments(
        output_dir=str(run.path("checkpoints")),
        per_device_train_batch_size=section.examples_per_step,
        max_steps=setup.steps,
        learning_rate=section.learning_rate,
        lr_scheduler_type=schedules[section.schedule],
        warmup_steps=int(warmup),
        optim="adafactor" if section.optimizer == "adafactor" else "adamw_torch_fused",
        weight_decay=section.weight_decay,
        max_grad_norm=section.clip,
        bf16=setup.precision == "bf16",
        use_cpu=setup.device.type == "cpu",
        seed=section.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validated else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        restore_callback_states_from_checkpoint=True,
        **choosing(section, validated=validated),
        remove_unused_columns=False,
        dataloader_pin_memory=setup.device.type == "cuda",
        disable_tqdm=True,
        report_to=list(section.trackers) or "none",
        run_name=recipe.name,
    )


def _record(trainer: ResidencyTrainer, run: Run, progress: Progress, checkpoint: Path | None) -> list[dict[str, Any]]:
    """Write each row of metrics as it comes, and tell the progress; returns the growing list of rows.

    A checkpoint brings the rows up to it: what a kill tore or left after it is written anew.
    """
    path = run.path(checkpoints.METRICS)
    metrics: list[dict[str, Any]] = []
    if checkpoint:
        metrics = [json.loads(line) for line in (checkpoint / checkpoints.METRICS).read_text("utf-8").splitlines()]
        trainer.counts = Counts(**{count.name: metrics[-1][count.name] for count in fields(Counts)})
    run.write_jsonl(checkpoints.METRICS, metrics)
    validation = ""

    def record(row: dict[str, Any]) -> None:
        nonlocal validation
        metrics.append(row)
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


def _save(trainer: ResidencyTrainer, recipe: Recipe, run: Run, prompt: Prompt) -> None:
    """The best model as plain transformers loads it, merged in float32; the adapter apart."""
    if recipe.train.method == "lora":
        with replacing(run.path("adapter")) as adapter:
            trainer.model.save_pretrained(str(adapter))
        _let_go(trainer)
        model = models.merge_lora(recipe.model, run.path("adapter"))
    else:
        model = trainer.model
    model.generation_config.eos_token_id = prompt.stop_ids
    model.generation_config.pad_token_id = prompt.tokenizer.pad_token_id
    with replacing(run.path("model")) as folder, models.quiet_libraries():
        model.save_pretrained(folder)
        prompt.tokenizer.save_pretrained(folder)


def _let_go(trainer: ResidencyTrainer) -> None:
    """Free what was trained, whoever still refers to it: the base is loaded once more, to be merged."""
    trainer.optimizer = None
    trainer.accelerator.free_memory()  # which holds the optimizer too
    for parameter in trainer.model.parameters():
        parameter.grad = None
        parameter.data = parameter.data.new_empty(0)
    environment.give_back_memory()


def _rows(run: Run, recipe: Recipe, step: int) -> list[int]:
    """The source's rows that a step learnt from."""
    rows = [dialogue.row for dialogue in run.dialogues("train")]
    places = places_of(step, recipe.train.examples_per_step, len(rows), recipe.train.seed)
    return sorted({rows[place] for place in places})


def _report(
    trainer: ResidencyTrainer,
    setup: Setup,
    forecast: Forecast,
    metrics: list[dict[str, Any]],
    *,
    diagnosis: list[Finding],
    stopped: Stopped | None,
) -> TrainReport:
    device, counts, steps = setup.device, trainer.counts, trainer.state.global_step
    validations = {row["step"]: row["validation_loss"] for row in metrics if "validation_loss" in row}
    best = stopped.restored_step if stopped else trainer.state.best_global_step or steps
    return TrainReport(
        method=forecast.method,
        steps=steps,
        examples=forecast.examples,
        answer_tokens=counts.answer_tokens,
        total_tokens=counts.total_tokens,
        padding_share=1 - counts.total_tokens / max(counts.padded_tokens, 1),
        seconds=metrics[-1]["seconds"],
        tokens_per_second=counts.total_tokens / max(counts.step_seconds, 1e-9),
        mfu=_mfu(forecast, counts, steps, setup),
        peak_memory_bytes=peak_memory(device),
        precision=setup.precision,
        device=torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        best_step=best,
        best_validation_loss=validations.get(best),
        stopped_early=steps < forecast.steps,
        stopped_by=stopped.stopped_by if stopped else None,
        stopped_at=stopped.stopped_at if stopped else None,
        restored_step=stopped.restored_step if stopped else None,
        diagnosis=diagnosis,
        summary=forecast.as_dict(),
        environment=environment.describe(),
        forecast=_against(forecast, metrics[-1]["seconds"], peak_memory(device)),
    )


def _against(forecast: Forecast, seconds: float, memory: int) -> dict[str, dict[str, float]]:
    """What was foreseen against what was used, so that every run is a check of the forecast."""
    foreseen = {"memory_bytes": forecast.memory.training_peak, "seconds": forecast.times.total}
    used = {"memory_bytes": memory, "seconds": seconds}
    return {name: {"foreseen": foreseen[name], "used": used[name]} for name in used}


def _mfu(forecast: Forecast, counts: Counts, steps: int, setup: Setup) -> float:
    """Model FLOPs utilisation: the work of the steps over what a matrix product on this machine would have done."""
    dtype = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    return forecast.flops_per_step * steps / max(counts.step_seconds, 1e-9) / matrix_product_speed(dtype, setup.device)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that the GPU has held, or on a CPU the largest resident size of this process so far."""
    return int(torch.cuda.max_memory_allocated()) if device.type == "cuda" else environment.peak_memory()
