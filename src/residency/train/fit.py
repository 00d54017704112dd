"""The training stage: model, adapters and arguments put together, run, and the result saved."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from residency import environment, models
from residency.errors import Interrupted, UserError
from residency.forecast.speed import matrix_product_speed
from residency.progress import Progress, Silent
from residency.prompts import Example, Prompt
from residency.recipe import Recipe
from residency.train import fitting
from residency.train.planning import VALIDATIONS_PER_EPOCH, Forecast, forecast_here, gib, job_of
from residency.train.trainer import Counts, Recorder, ResidencyTrainer
from residency.train.watch import Finding, read_curves
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
    summary: dict[str, Any]
    environment: dict[str, str]
    forecast: dict[str, dict[str, float]]


def train(
    recipe: Recipe, run: Run, prompt: Prompt, progress: Progress | None = None, resume: bool = False
) -> TrainReport:
    """Fine-tune the recipe's model on the run's prepared data; leaves `model/` (merged) and, for LoRA, `adapter/`.

    Raises:
        UserError: the data was not prepared, or a setting does not fit the model.
        Interrupted: stopped by the user; `resume` goes on from the last checkpoint, or begins where there is none.
    """
    progress = progress or Silent()
    checkpoint = _checkpoint(run) if resume else None
    if checkpoint is None:
        run.forget("checkpoints")  # of an earlier training: this one must not go on from them
        if resume:
            progress.say("No checkpoint to go on from: training starts at the beginning")
    environment.keep_freed_memory()
    examples, validation = _examples(recipe, run, prompt)
    setup = _setup(recipe, len(examples))
    forecast = forecast_here(job_of(recipe, setup, examples, validation), setup.device)
    progress.table("Model and run", forecast.rows())
    fitting.refuse(recipe, setup, forecast.memory, examples, validation)
    model = _model(recipe, setup, progress)
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
    if recipe.train.patience and validation:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=recipe.train.patience))
    try:
        with models.quiet_libraries():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt:
        raise Interrupted(f"training stopped at step {trainer.state.global_step} of {setup.steps}") from None
    _save(trainer, recipe, run, prompt)
    report = _report(trainer, setup, forecast, metrics)
    run.write_json("train.json", asdict(report))
    return report


def fitted(recipe: Recipe, run: Run, prompt: Prompt) -> Recipe:
    """The recipe itself where this machine has the memory for it, or the nearest one whose run fits.

    Raises:
        UserError: none does.
    """
    examples, validation = _examples(recipe, run, prompt)
    setup = _setup(recipe, len(examples))
    free = fitting.free_memory(setup.device)
    found = fitting.fitted(recipe, setup, examples, validation, free)
    if found is None:
        raise UserError(
            f"no setting of this model fits into the {gib(free)} that can be had", "", "take a smaller model"
        )
    return found


def _examples(recipe: Recipe, run: Run, prompt: Prompt) -> tuple[list[Example], list[Example]]:
    """The examples of training and validation, in tokens."""
    training, validation = (
        [prompt.example(d.question, d.answer, recipe.model.max_length, d.before) for d in run.dialogues(split)]
        for split in ("train", "validation")
    )
    return training, validation


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
        _let_go(trainer)
        model = models.merge_lora(recipe.model, run.path("adapter"))
    else:
        model = trainer.model
    model.generation_config.eos_token_id = prompt.stop_ids
    model.generation_config.pad_token_id = prompt.tokenizer.pad_token_id
    with replacing(run.path("model")) as folder, models.quiet_libraries():
        model.save_pretrained(folder)
        prompt.tokenizer.save_pretrained(folder)
    shutil.rmtree(run.path("checkpoints"), ignore_errors=True)


def _let_go(trainer: ResidencyTrainer) -> None:
    """Free what was trained, whoever still refers to it: the base is loaded once more, to be merged."""
    trainer.optimizer = None
    trainer.accelerator.free_memory()  # which holds the optimizer too
    for parameter in trainer.model.parameters():
        parameter.grad = None
        parameter.data = parameter.data.new_empty(0)
    environment.give_back_memory()


def _report(trainer: ResidencyTrainer, setup: Setup, forecast: Forecast, metrics: list[dict[str, Any]]) -> TrainReport:
    device, counts, steps = setup.device, trainer.counts, trainer.state.global_step
    validations = [(row["validation_loss"], row["step"]) for row in metrics if "validation_loss" in row]
    best = min(validations, default=(None, steps))
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
        best_step=best[1],
        best_validation_loss=best[0],
        stopped_early=steps < forecast.steps,
        diagnosis=read_curves(metrics),
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
