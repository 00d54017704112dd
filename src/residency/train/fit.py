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
from residency.prompts import Example, Prompt
from residency.recipe import Recipe
from residency.train import adapters, merge, quantised, schedules
from residency.train.forecast import Summary, matrix_product_speed, summarise
from residency.train.optimizers import NAMES
from residency.train.trainer import Counts, Recorder, ResidencyTrainer
from residency.train.watch import Finding, read_curves
from residency.workspace import Run, replacing

CPU_TOKENS = 1024  # measured: larger micro-batches fall out of a CPU's caches and are slower
GPU_TOKENS = 16384
VALIDATIONS_PER_EPOCH = 2
START = "checkpoints/start"  # an adapter before its first step, where merging needs it


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
    """What training took and what it reached. Seconds, bytes, tokens; losses in nats a token."""

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
    diagnosis: list[Finding]
    merge: merge.Agreement | None
    summary: dict[str, Any]
    environment: dict[str, str]


def train(
    recipe: Recipe, run: Run, prompt: Prompt, progress: Progress | None = None, resume: bool = False
) -> TrainReport:
    """Fine-tune the recipe's model on the run's prepared data; leaves `model/` (merged) and for adapters `adapter/`.

    Raises:
        UserError: the data was not prepared, a setting does not fit the model, or merging changes what it says.
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
    setup = setup_of(recipe, len(examples))
    model = build_model(recipe, setup, progress)
    if recipe.train.method == "lora" and recipe.train.lora.variant in adapters.CHANGES_THE_BASE:
        _keep_start(model, run)
    summary = summarise(model, examples, recipe.train, setup.steps, setup.tokens_per_batch)
    progress.table("Model and run", summary.rows())
    trainer = ResidencyTrainer(
        model=model,
        args=arguments(recipe, run, setup, validated=bool(validation)),
        train_dataset=examples,
        eval_dataset=validation or None,
        validation=validation,
        pad_id=prompt.tokenizer.pad_token_id or 0,
        tokens_per_batch=setup.tokens_per_batch,
        rate=schedules.factor(recipe.train, setup.steps),
        smoothing=recipe.train.label_smoothing,
        muon=recipe.train.optimizer == "muon",
    )
    metrics = _record(trainer, run, progress, checkpoint)
    if recipe.train.patience and validation:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=recipe.train.patience))
    try:
        with models.quiet_libraries():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        raise Interrupted(f"training stopped at step {trainer.state.global_step} of {setup.steps}") from None
    agreement = _save(trainer, recipe, run, prompt, validation or examples)
    report = _report(trainer, setup, summary, metrics, agreement)
    run.write_json("train.json", asdict(report))
    return report


def setup_of(recipe: Recipe, examples: int) -> Setup:
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


def build_model(recipe: Recipe, setup: Setup, progress: Progress) -> Any:
    """The model to train: frozen weights may be bf16, weights that learn stay in float32 and are cast as they go."""
    section, attention = recipe.train, recipe.model.attention
    frozen = section.method in adapters.ON_A_BASE
    dtype = torch.bfloat16 if setup.precision == "bf16" and frozen else torch.float32
    if attention == "auto":
        attention = "eager" if setup.device.type == "cpu" else "sdpa"
    if section.method == "qlora":
        quantised.need("train.method qlora", setup.device)
    if section.optimizer == "adamw-8bit":
        quantised.need("train.optimizer adamw-8bit", setup.device)
    load = quantised.load_packed if section.method == "qlora" else models.load_base
    torch.manual_seed(section.seed)
    return adapters.attach(load(recipe.model, dtype, attention, progress), section)


def arguments(recipe: Recipe, run: Run, setup: Setup, *, validated: bool) -> TrainingArguments:
    """The recipe in transformers' words."""
    section = recipe.train
    every = section.evaluate_every or max(1, round(setup.steps_per_epoch / VALIDATIONS_PER_EPOCH))
    return TrainingArguments(
        output_dir=str(run.path("checkpoints")),
        per_device_train_batch_size=section.examples_per_step,
        max_steps=setup.steps,
        learning_rate=section.learning_rate,
        optim=NAMES[section.optimizer],
        weight_decay=section.weight_decay,
        max_grad_norm=section.clip,
        neftune_noise_alpha=section.neftune or None,
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


def _keep_start(model: Any, run: Run) -> None:
    """The adapter before its first step: what a variant took out of the base's weights is told apart by it."""
    with models.quiet_libraries():
        model.save_pretrained(str(run.path(START)))


def _save(
    trainer: ResidencyTrainer, recipe: Recipe, run: Run, prompt: Prompt, examples: list[Example]
) -> merge.Agreement | None:
    """The best model as plain transformers loads it, merged in float32; the adapter apart; checkpoints are cleared."""
    model, adapter, agreement = trainer.model, run.path("adapter"), None
    if recipe.train.method in adapters.ON_A_BASE:
        start = str(run.path(START)) if run.path(START).is_dir() else None
        with replacing(adapter) as folder, models.quiet_libraries():
            trainer.model.save_pretrained(str(folder), path_initial_model_for_weight_conversion=start)
        model, agreement = merge.merged(recipe, adapter, examples, trainer.pad_id)
    model.generation_config.eos_token_id = prompt.stop_ids
    model.generation_config.pad_token_id = prompt.tokenizer.pad_token_id
    with replacing(run.path("model")) as folder, models.quiet_libraries():
        if recipe.train.method == "prompt-tuning":
            merge.save_on_base(model, recipe, adapter, folder)
        else:
            model.save_pretrained(folder)
        prompt.tokenizer.save_pretrained(folder)
    shutil.rmtree(run.path("checkpoints"), ignore_errors=True)
    return agreement


def _report(
    trainer: ResidencyTrainer,
    setup: Setup,
    summary: Summary,
    metrics: list[dict[str, Any]],
    agreement: merge.Agreement | None,
) -> TrainReport:
    device, counts, steps = setup.device, trainer.counts, trainer.state.global_step
    validations = [(row["validation_loss"], row["step"]) for row in metrics if "validation_loss" in row]
    best = min(validations, default=(None, steps))
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
        diagnosis=read_curves(metrics),
        merge=agreement,
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
