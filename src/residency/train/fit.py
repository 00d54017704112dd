"""The training stage: model, adapters and arguments put together, run, and the result saved."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from residency import environment, models
from residency.errors import Interrupted
from residency.progress import Progress, Silent
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.train.forecast import Summary, matrix_product_speed, summarise
from residency.train.guard import Guard, Stopped, restore
from residency.train.steps import places_of
from residency.train.trainer import Counts, Recorder, ResidencyTrainer
from residency.train.watch import Finding
from residency.workspace import Run, replacing

CPU_TOKENS = 1024  # measured: larger micro-batches fall out of a CPU's caches and are slower
GPU_TOKENS = 16384
VALIDATIONS_PER_EPOCH = 2


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


def train(
    recipe: Recipe, run: Run, prompt: Prompt, progress: Progress | None = None, resume: bool = False
) -> TrainReport:
    """Fine-tune the recipe's model on the run's prepared data; leaves `model/` (merged) and, for LoRA, `adapter/`.

    Raises:
        UserError: the data was not prepared, a setting does not fit the model, or the loss diverged before there was
            a checkpoint to fall back on.
        Interrupted: stopped by the user; `resume` goes on from the last checkpoint, or begins where there is none.
    """
    progress = progress or Silent()
    checkpoint = _checkpoint(run) if resume else None
    if checkpoint is None:
        run.forget("checkpoints")  # of an earlier training: this one must not go on from them
        if resume:
            progress.say("No checkpoint to go on from: training starts at the beginning")
    environment.keep_freed_memory()
    examples, validation = (
        [prompt.example(d.question, d.answer, recipe.model.max_length, d.before) for d in run.dialogues(split)]
        for split in ("train", "validation")
    )
    setup = _setup(recipe, len(examples))
    model = _model(recipe, setup, progress)
    summary = summarise(model, examples, recipe.train, setup.steps, setup.tokens_per_batch)
    progress.table("Model and run", summary.rows())
    trainer = ResidencyTrainer(
        model=model,
        args=_arguments(recipe, run, setup, validated=bool(validation)),
        train_dataset=examples,
        eval_dataset=validation or None,
        validation=validation,
        pad_id=prompt.tokenizer.pad_token_id or 0,
        tokens_per_batch=setup.tokens_per_batch,
    )
    metrics = _record(trainer, run, progress, checkpoint)
    guard = Guard(metrics, progress, lambda step: _rows(run, recipe, step))
    trainer.add_callback(guard)
    if recipe.train.patience and validation:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=recipe.train.patience))
    try:
        with models.quiet_libraries():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        raise Interrupted(f"training stopped at step {trainer.state.global_step} of {setup.steps}") from None
    stopped = restore(trainer, guard.watch, lambda: _checkpoint(run)) if guard.watch.fatal else None
    if stopped:
        progress.say(f"Training stopped; the model is that of step {stopped.restored_step}, from before the trouble")
    _save(trainer, recipe, run, prompt)
    report = _report(trainer, setup, summary, metrics, diagnosis=guard.findings(), stopped=stopped)
    run.write_json("train.json", asdict(report))
    return report


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
        save_total_limit=2,
        load_best_model_at_end=validated,
        restore_callback_states_from_checkpoint=True,
        metric_for_best_model="eval_loss" if validated else None,
        greater_is_better=False if validated else None,
        remove_unused_columns=False,
        dataloader_pin_memory=setup.device.type == "cuda",
        disable_tqdm=True,
        report_to=list(section.trackers) or "none",
        run_name=recipe.name,
    )


def _record(trainer: ResidencyTrainer, run: Run, progress: Progress, checkpoint: Path | None) -> list[dict[str, Any]]:
    """Write each row of metrics as it comes, and tell the progress; returns the growing list of rows."""
    path = run.path("metrics.jsonl")
    metrics: list[dict[str, Any]] = []
    if checkpoint and path.exists():
        kept = (json.loads(line) for line in path.read_text("utf-8").splitlines())
        metrics = [row for row in kept if row["step"] <= _step(checkpoint)]
        trainer.counts = Counts(**{field.name: metrics[-1][field.name] for field in fields(Counts)})
    run.write_jsonl("metrics.jsonl", metrics)
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


def _checkpoint(run: Run) -> Path | None:
    """The newest whole checkpoint; none where training was stopped before its first.

    transformers writes a checkpoint's `trainer_state.json` last: without it the checkpoint was cut short.
    """
    found = run.path("checkpoints").glob("checkpoint-*")
    whole = [path for path in found if (path / TRAINER_STATE_NAME).is_file()]
    return max(whole, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _save(trainer: ResidencyTrainer, recipe: Recipe, run: Run, prompt: Prompt) -> None:
    """The best model as plain transformers loads it, merged in float32; the adapter apart; checkpoints are cleared."""
    if recipe.train.method == "lora":
        with replacing(run.path("adapter")) as adapter:
            trainer.model.save_pretrained(str(adapter))
        model = models.merge_lora(recipe.model, run.path("adapter"))
    else:
        model = trainer.model
    model.generation_config.eos_token_id = prompt.stop_ids
    model.generation_config.pad_token_id = prompt.tokenizer.pad_token_id
    with replacing(run.path("model")) as folder, models.quiet_libraries():
        model.save_pretrained(folder)
        prompt.tokenizer.save_pretrained(folder)
    shutil.rmtree(run.path("checkpoints"), ignore_errors=True)


def _rows(run: Run, recipe: Recipe, step: int) -> list[int]:
    """The source's rows that a step learnt from."""
    rows = [dialogue.row for dialogue in run.dialogues("train")]
    places = places_of(step, recipe.train.examples_per_step, len(rows), recipe.train.seed)
    return sorted({rows[place] for place in places})


def _report(
    trainer: ResidencyTrainer,
    setup: Setup,
    summary: Summary,
    metrics: list[dict[str, Any]],
    *,
    diagnosis: list[Finding],
    stopped: Stopped | None,
) -> TrainReport:
    device, counts, steps = setup.device, trainer.counts, trainer.state.global_step
    losses = [(row["validation_loss"], row["step"]) for row in metrics if "validation_loss" in row]
    validations = [found for found in losses if math.isfinite(found[0])]
    best = min(validations, default=(None, stopped.restored_step if stopped else steps))
    return TrainReport(
        method=summary.method,
        steps=steps,
        examples=summary.examples,
        answer_tokens=counts.answer_tokens,
        total_tokens=counts.total_tokens,
        padding_share=1 - counts.total_tokens / max(counts.padded_tokens, 1),
        seconds=metrics[-1]["seconds"],
        tokens_per_second=counts.total_tokens / max(counts.step_seconds, 1e-9),
        mfu=_mfu(summary, counts, steps, setup),
        peak_memory_bytes=peak_memory(device),
        precision=setup.precision,
        device=torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        best_step=best[1],
        best_validation_loss=best[0],
        stopped_early=steps < summary.steps,
        stopped_by=stopped.stopped_by if stopped else None,
        stopped_at=stopped.stopped_at if stopped else None,
        restored_step=stopped.restored_step if stopped else None,
        diagnosis=diagnosis,
        summary=summary.as_dict(),
        environment=environment.describe(),
    )


def _mfu(summary: Summary, counts: Counts, steps: int, setup: Setup) -> float:
    """Model FLOPs utilisation: the work of the steps over what a matrix product on this machine would have done."""
    dtype = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    return summary.flops_per_step * steps / max(counts.step_seconds, 1e-9) / matrix_product_speed(dtype, setup.device)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that the GPU has held, or on a CPU the largest resident size of this process so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
