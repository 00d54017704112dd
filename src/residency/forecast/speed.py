"""Seconds, energy and cost of a run from its work and a machine's rates."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from residency.forecast.job import Job
from residency.forecast.trace import Batch

KERNELS = 150  # started for one layer of one micro-batch, forward and backward
PASSES = 3  # times that a micro-batch reads the weights: forward, backward for inputs, backward for weights
TOUCHED = 2  # an optimizer step reads and writes each of its bytes
SAVING = 5e8  # bytes/s that a checkpoint is written, synced and hashed at, where it was not measured


@dataclass(frozen=True)
class Rates:
    """What a machine gets done in training: FLOP/s, bytes/s, seconds to start a kernel, a step, and the run."""

    compute: float
    bandwidth: float = float("inf")
    launch: float = 0.0
    step: float = 0.0
    start: float = 0.0
    forward: float = 0.0  # FLOP/s of a pass without gradients; `compute` where it is 0
    saving: float = SAVING  # bytes/s of a checkpoint


@dataclass(frozen=True)
class Times:
    """Seconds of a mean step, of all steps, of all validations, and of the checkpoints that later steps wait for."""

    step: float
    training: float
    validation: float
    saving: float = 0.0

    @property
    def total(self) -> float:
        """Training with its validations and checkpoints."""
        return self.training + self.validation + self.saving

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"total": self.total}


def times(job: Job, rates: Rates, devices: int = 1) -> Times:
    """Seconds of the run. Several devices share each step's micro-batches (data parallel)."""
    counts = job.counts
    optimizer = TOUCHED * (2 * counts.gradients + counts.optimizer) / rates.bandwidth + rates.step
    per_step = [
        _shared([_micro(job, batch, rates, backward=True) for batch in step], devices) + optimizer
        for step in job.batches
    ]
    validating = _shared([_micro(job, batch, rates, backward=False) for batch in job.validation_batches], devices)
    whole, rest = divmod(job.steps, len(per_step))
    training = whole * sum(per_step) + sum(per_step[:rest])
    return Times(
        step=training / max(job.steps, 1),
        training=training + rates.start,
        validation=validating * job.validations,
        saving=job.saves * job.counts.saved / rates.saving,
    )


def energy_and_cost(seconds: float, watts: float, price: float | None, electricity: float) -> tuple[float, float]:
    """Kilowatt-hours, and dollars: the machine's price an hour, or its electricity where it is one's own."""
    hours = seconds / 3600
    energy = hours * watts / 1000
    return energy, hours * price if price is not None else energy * electricity


@cache
def matrix_product_speed(dtype: torch.dtype, device: torch.device, size: int = 1024, seconds: float = 0.3) -> float:
    """Floating-point operations a second of a matrix product [size, size] on this machine: what MFU is measured by.

    Measured once in a process.
    """
    one, other = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best, ends = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        started = time.perf_counter()
        for _ in range(4):
            one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - started))
    return best


@cache
def copy_speed(device: torch.device, size: int = 2**26, seconds: float = 0.1) -> float:
    """Bytes a second that a copy reads and writes on this machine, measured once in a process."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best, ends = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        started = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size / (time.perf_counter() - started))
    return best


def _micro(job: Job, batch: Batch, rates: Rates, *, backward: bool) -> float:
    """One micro-batch is bound by its products or by reading the weights, and by starting its kernels."""
    flops = job.work.training(batch) if backward else job.work.forward(batch)
    speed = rates.compute if backward else rates.forward or rates.compute
    passes = PASSES if backward else 1
    layers = int(getattr(job.config, "num_hidden_layers", 0))
    starting = layers * KERNELS * (1 if backward else 1 / 3) * rates.launch
    return max(flops / speed, passes * job.counts.weights / rates.bandwidth) + starting


def _shared(seconds: list[float], devices: int) -> float:
    """The slowest device's sum, where micro-batches are dealt out longest first."""
    loads = [0.0] * devices
    for one in sorted(seconds, reverse=True):
        loads[loads.index(min(loads))] += one
    return max(loads)
