"""From a recipe and its examples to the forecast of its run, before anything large is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from residency import environment, models, packing, ranks
from residency.forecast.job import Answers, Job, Length
from residency.forecast.machines import efficiency
from residency.forecast.memory import CONTEXT, FLOAT32, Memory, Phase, count
from residency.forecast.speed import Rates, Times, copy_speed, matrix_product_speed, times
from residency.forecast.trace import Trace
from residency.prompts import Example
from residency.recipe import Recipe
from residency.train import outline
from residency.train.setup import Setup, validated_every
from residency.train.steps import EpochSampler

IN_INT8 = 1.18  # times the work a second of a step whose backward pass is in int8 (benchmarks/RESULTS.md)
LEAST_COMPILED = 0.3  # of what plain layers have alive: what compiled ones have at least
COMPILING = 20.0  # seconds that a compiler takes of a run's start, where nothing was measured
SAMPLED = 1000  # examples that are looked at for what all begin with
VARIES = 1.1  # what some step of a run takes on a GPU, over the most that a few took
FRAGMENTED = 60  # micro-batches in which a heap has gone two thirds of the way to where it is trimmed


@dataclass(frozen=True)
class Measured:
    """What a rehearsal saw.

    How many steps. Bytes: most in a step; most while validating. FLOP/s, of steps and of passes without gradients.
    Seconds: of a step beside its batches, and of the start. Bytes/s of a checkpoint.
    """

    steps: int
    peak: int
    validation: int
    compute: float
    forward: float
    step: float
    start: float
    saving: float


@dataclass(frozen=True)
class Forecast:
    """What a run will take. Memory in bytes, time in seconds; `measured` says that steps were tried on this machine."""

    method: str
    examples: int
    parameters: int
    trainable: int
    steps: int
    tokens_per_batch: int
    tokens_per_step: float
    flops_per_step: float
    memory: Memory
    times: Times
    measured: bool

    def rows(self) -> list[tuple[str, str]]:
        """The forecast as lines of a table, with units."""
        memory, share = self.memory, 100 * self.trainable / self.parameters
        largest = max(memory.phases, key=lambda name: memory.phases[name].peak)
        how = "" if self.measured else ", guessed from a matrix product"
        return [
            ("parameters", f"{_millions(self.parameters)}, {_millions(self.trainable)} of them learn ({share:.1f}%)"),
            ("weights", gib(memory.weights)),
            ("gradients", gib(memory.gradients)),
            ("optimizer state", gib(memory.optimizer)),
            ("activations", f"{gib(memory.activations)}, micro-batches of {self.tokens_per_batch:,} tokens"),
            ("logits", gib(memory.logits)),
            ("overhead", f"{gib(memory.overhead)}, Python, libraries, allocator"),
            ("peak", f"about {gib(memory.peak)} ({largest})"),
            ("steps", f"{self.steps:,} of {self.tokens_per_step:,.0f} tokens, {self.flops_per_step / 1e12:,.2f} TFLOP"),
            ("time", f"about {clock(self.times.total)}, {self.times.step:.2g} s a step{how}"),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {name: value for name, value in vars(self).items() if name not in ("memory", "times")}
        return plain | {"memory": self.memory.as_dict(), "seconds": self.times.as_dict()}


def job_of(
    recipe: Recipe,
    setup: Setup,
    examples: Sequence[Example],
    validation: Sequence[Example],
    prompts: Sequence[int] = (),
) -> Job:
    """The run as the forecast sees it; `prompts` are the lengths of the questions that the evaluation will ask."""
    section, config = recipe.train, models.load_config(recipe.model)
    lengths = [length(example) for example in examples]
    order = list(EpochSampler(len(lengths), section.seed))
    size = section.examples_per_step
    base = outline.base(config, recipe.model)
    model = outline.trained(config, recipe, setup.precision, "sdpa")
    counts = count(
        model,
        section.optimizer,
        base=sum(parameter.numel() for parameter in base.parameters()),
        precision=setup.precision,
        file=_file(recipe, config, base),
        packed=section.method == "qlora",
    )
    return Job(
        config=config,
        build=lambda smaller, attention: outline.trained(smaller, recipe, setup.precision, attention),
        counts=counts,
        method=section.method,
        paired=section.objective == "dpo",
        shares=ranks.world() if section.distributed.strategy != "ddp" else 1,
        traced=_traced(_named(config, recipe, setup)),
        apart=section.freeze.train_last if section.method == "freeze" else 0,
        optimizer=section.optimizer,
        precision=setup.precision,
        attention=_attention(recipe, setup.device.type),
        tokens_per_batch=setup.tokens_per_batch,
        compiled=setup.compiled,
        int8=setup.int8,
        beginning=_beginning(model, examples) if setup.packs and not packing.unfit(model) else None,
        in_place=setup.device.type == "cpu" and section.objective == "sft" and ranks.world() == 1,
        order=tuple(order),
        epoch=tuple(
            tuple(lengths[place] for place in order[start : start + size]) for start in range(0, len(order), size)
        ),
        steps=setup.steps,
        validation=tuple(map(length, validation)),
        validations=setup.steps // validated_every(section, setup) if validation else 0,
        saves=(setup.steps - 1) // validated_every(section, setup),
        answers=Answers(tuple(prompts), recipe.evaluate.batch, recipe.evaluate.max_new_tokens) if prompts else None,
    )


def _beginning(model: Any, examples: Sequence[Example]) -> int:
    return packing.beginning(examples[:SAMPLED]) if not packing.drops(model) else 0


@lru_cache(maxsize=16)
def _traced(name: str) -> dict[Any, Trace]:
    """What has been traced in this process of a model by this name: runs of the same model share it."""
    return {}


def _named(config: Any, recipe: Recipe, setup: Setup) -> str:
    """Everything that decides what a micro-batch of the model holds and computes."""
    learns = recipe.train.model_dump_json(include={"method", "lora", "freeze", "ia3", "prompt_tuning"})
    return "\n".join([config.to_json_string(), learns, setup.precision, _attention(recipe, setup.device.type)])


def length(example: Example) -> Length:
    """An example's lengths."""
    return Length(len(example), example.learnt)


def forecast_of(job: Job, memory: Memory, seconds: Times, *, measured: bool = False) -> Forecast:
    """The forecast of a job from its memory and its times."""
    steps = len(job.epoch)
    training = sum(job.work.training(batch) for step in job.batches for batch in step)
    return Forecast(
        method=job.method,
        examples=sum(len(step) for step in job.epoch),
        parameters=job.counts.parameters,
        trainable=job.counts.trainable,
        steps=job.steps,
        tokens_per_batch=job.tokens_per_batch,
        tokens_per_step=sum(length.tokens for step in job.epoch for length in step) / steps,
        flops_per_step=training / steps,
        memory=memory,
        times=seconds,
        measured=measured,
    )


def forecast_here(job: Job, device: torch.device) -> Forecast:
    """The forecast for this machine from the configuration alone: its products are timed for half a second."""
    return forecast_of(job, memory_here(job, device), times(job, rates_here(job, device), ranks.world()))


def memory_here(job: Job, device: torch.device) -> Memory:
    """Memory on this machine, on top of what the process holds by now."""
    found = job.memory(device.type, environment.resident() if device.type == "cpu" else CONTEXT)
    return job.shared(found, job.shares)


def memory_measured(job: Job, device: torch.device, seen: Measured) -> Memory:
    """Memory on this machine by what a rehearsal saw: how far its steps went over what was alive in them.

    On a CPU a longer run's heap falls into fragments by and by, until `environment.Heap` trims it.
    """
    counts, base = job.counts, environment.resident() if device.type == "cpu" else CONTEXT
    fixed = counts.weights + counts.gradients + counts.optimizer
    if device.type == "cpu":
        passing = seen.peak * _grown(job, seen.steps) - base - fixed
    else:  # counts the tensors alone
        passing = VARIES * (seen.peak - fixed)
    least = LEAST_COMPILED if job.compiled else 1.0
    found = job.memory(device.type, base, max(least, passing / job.largest[1].peak))
    if "validation" not in found.phases:
        return found
    validating = Phase(seen.validation if device.type == "cpu" else base + seen.validation)
    return replace(found, phases={**found.phases, "validation": validating})


def _grown(job: Job, seen: int) -> float:
    """How many times its size in the first steps, of which some were `seen`, the process has when the run ends."""
    more = max(job.steps - seen, 0) * sum(map(len, job.batches)) / len(job.batches)
    return 1 + (environment.Heap.GROWN - 1) * (1 - math.exp(-more / FRAGMENTED))


def rates_measured(seen: Measured) -> Rates:
    """What this machine got done in a rehearsal."""
    return Rates(seen.compute, step=seen.step, start=seen.start, forward=seen.forward, saving=seen.saving)


def rates_here(job: Job, device: torch.device) -> Rates:
    """What this machine will get done, from a matrix product and a copy, and how much of both training reaches."""
    share = efficiency(device.type)
    dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
    compute = share.compute * matrix_product_speed(dtype, device)
    return Rates(
        faster(job) * compute,
        share.bandwidth * copy_speed(device),
        share.launch,
        start=COMPILING if job.compiled else 0.0,
        forward=compute,
    )


def faster(job: Job) -> float:
    """How many times the work a second a step gets done for going back in int8."""
    return IN_INT8 if job.int8 else 1.0


def _attention(recipe: Recipe, device: str) -> str:
    chosen = recipe.model.attention
    return "sdpa" if device != "cpu" and chosen == "auto" else chosen


def _file(recipe: Recipe, config: Any, base: Any) -> int:
    """Bytes of the weight files where they lie here, or what the configuration says of their type."""
    where, gguf = models.locate(recipe.model)
    folder = Path(where)
    if folder.is_dir() and not gguf:
        found = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        if found:
            return found
    kind = getattr(config, "dtype", None)
    each = kind.itemsize if isinstance(kind, torch.dtype) else FLOAT32
    return each * sum(int(parameter.numel()) for parameter in base.parameters())


def gib(count: float) -> str:
    """Bytes as GiB, or MiB where there are few."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:,.1f} MiB"


def clock(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:,.1f} h"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M" if count < 1e8 else f"{count / 1e6:,.1f} M"
