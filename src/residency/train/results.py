"""What training took and what it reached, as train.json holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from residency import environment, ranks
from residency.forecast.speed import matrix_product_speed
from residency.train import checkpoints
from residency.train.guard import Stopped
from residency.train.merge import Agreement
from residency.train.planning import Forecast
from residency.train.setup import Setup
from residency.train.trainer import Counts, ResidencyTrainer
from residency.train.watch import Finding
from residency.workspace import Run


@dataclass(frozen=True)
class Ending:
    """How a training went: its rows of metrics, what they showed, why it was stopped, which weights were chosen."""

    metrics: list[dict[str, Any]]
    diagnosis: list[Finding]
    stopped: Stopped | None
    chosen: dict[str, Any]


@dataclass(frozen=True)
class TrainReport:
    """What training took and what it reached. Seconds, bytes, tokens; losses in nats a token.

    `best_value` is what `best_by` was at `best_step`. Where `averaged` names steps, the model is the mean of them.
    Where a fault stopped it, `stopped_by` names the finding, and the model is that of `restored_step`. `preference` has
    the settings of DPO, and what the model prefers of held-out pairs before and after (`rewards.compared`). `ranks` is
    how many processes trained together; seconds and memory are those of the first. `made_from` names the base model's
    files by hash, the seed and the versions. `dithered` is the share of the weights that learn, or lie under the
    adapter, whose bits below bf16's were drawn (`residency.dither`); `int8` says that the backward pass was in it.
    """

    method: str
    steps: int
    examples: int
    answer_tokens: int
    total_tokens: int
    passed_share: float  # tokens through the layers for each of the rows: padding counts, a shared beginning once
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
    merge: Agreement | None
    summary: dict[str, Any]
    environment: dict[str, str]
    stopped_by: str | None = None
    stopped_at: int | None = None
    restored_step: int | None = None
    best_by: str = "loss"
    best_value: float | None = None
    averaged: list[int] = field(default_factory=list)
    averaged_validation_loss: float | None = None
    continued_from: dict[str, Any] | None = None
    preference: dict[str, Any] | None = None
    forecast: dict[str, dict[str, float]] = field(default_factory=dict)
    compiled: bool = False
    int8: bool = False
    ranks: int = 1
    made_from: dict[str, Any] | None = None
    dithered: float = 0.0


def finished(run: Run) -> TrainReport | None:
    """The report of a training that has come to its end in this folder; none where it has not."""
    if not (run.folder / "train.json").is_file():
        return None
    found = run.read_json("train.json", "train")
    if "padding_share" in found:  # of a version that padded every batch
        found["passed_share"] = 1 / (1 - found.pop("padding_share"))
    if ranks.first():
        checkpoints.discard(run.folder / checkpoints.FOLDER)  # a kill may have left them
    diagnosis = [Finding(**finding) for finding in found["diagnosis"]]
    return TrainReport(**{**found, "diagnosis": diagnosis, "merge": found["merge"] and Agreement(**found["merge"])})


def report_of(
    trainer: ResidencyTrainer,
    setup: Setup,
    forecast: Forecast,
    ending: Ending,
    agreement: Agreement | None,
    *,
    dithered: float,
) -> TrainReport:
    """What a training that has come to its end took and reached."""
    metrics, stopped = ending.metrics, ending.stopped
    device, counts, steps = setup.device, trainer.counts, trainer.state.global_step
    validations = {row["step"]: row["validation_loss"] for row in metrics if "validation_loss" in row}
    best = stopped.restored_step if stopped else trainer.state.best_global_step or steps
    return TrainReport(
        method=forecast.method,
        steps=steps,
        examples=forecast.examples,
        answer_tokens=counts.answer_tokens,
        total_tokens=counts.total_tokens,
        passed_share=counts.passed_tokens / max(counts.total_tokens, 1),
        seconds=metrics[-1]["seconds"],
        tokens_per_second=counts.total_tokens / max(counts.step_seconds, 1e-9),
        mfu=_mfu(forecast, counts, steps, setup),
        peak_memory_bytes=peak_memory(device),
        precision=setup.precision,
        device=torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        best_step=best,
        best_validation_loss=validations.get(best),
        stopped_early=steps < forecast.steps,
        diagnosis=ending.diagnosis,
        merge=agreement,
        dithered=agreement.dithered if agreement else dithered,
        summary=forecast.as_dict(),
        environment=environment.describe(),
        compiled=bool(trainer.layers and trainer.layers.pieces),
        int8=bool(trainer.layers and trainer.layers.pieces and trainer.layers.products),
        forecast=_against(forecast, metrics[-1]["seconds"], peak_memory(device)),
        ranks=ranks.world(),
        **(asdict(stopped) if stopped else ending.chosen),
    )


def _against(forecast: Forecast, seconds: float, memory: int) -> dict[str, dict[str, float]]:
    """What was foreseen against what was used, so that every run is a check of the forecast."""
    foreseen = {"memory_bytes": forecast.memory.training_peak, "seconds": forecast.times.total}
    used = {"memory_bytes": memory, "seconds": seconds}
    return {name: {"foreseen": foreseen[name], "used": used[name]} for name in used}


def _mfu(forecast: Forecast, counts: Counts, steps: int, setup: Setup) -> float:
    """Model FLOPs utilisation: the work of the steps over what a matrix product on this machine would have done."""
    dtype = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    speed = ranks.world() * matrix_product_speed(dtype, setup.device)
    return forecast.flops_per_step * steps / max(counts.step_seconds, 1e-9) / speed


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` begin anew, at what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        environment.forget_peak()


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that the GPU has held, or on a CPU the largest resident size of this process so far."""
    return int(torch.cuda.max_memory_allocated()) if device.type == "cuda" else environment.peak_memory()
