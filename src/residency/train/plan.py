"""The plan of a run: what it will take here, measured where it can be, and on the machines of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from residency import environment, models
from residency.forecast.job import Job
from residency.forecast.machines import (
    ASSUMED,
    USES,
    Decoder,
    Machine,
    efficiency,
    electricity,
    largest,
    largest_size,
    machines,
    several,
)
from residency.forecast.memory import Memory
from residency.forecast.speed import Rates, Times, energy_and_cost, times
from residency.progress import Progress
from residency.prompts import Example, Prompt
from residency.recipe import Recipe
from residency.train import fitting, rehearse
from residency.train.planning import (
    Forecast,
    faster,
    forecast_here,
    forecast_of,
    job_of,
    memory_measured,
    rates_measured,
)
from residency.train.setup import Setup, compiles, examples_of, in_int8, setup_of, tokens_at_once
from residency.workspace import Run

ASSUMED_ROWS, ASSUMED_TOKENS = 1000, 512
WATTS_A_CORE = 12  # of a server's processor under load, a share of memory and fans included


@dataclass(frozen=True)
class Examples:
    """The tokenised data of a run; `prompts` are the lengths of the questions that the evaluation asks."""

    training: Sequence[Example]
    validation: Sequence[Example]
    prompts: Sequence[int]


def examples(recipe: Recipe, run: Run, prompt: Prompt) -> Examples:
    """The prepared data of a run, tokenised."""
    training, validation = examples_of(recipe, run, prompt)
    asked = run.dialogues("test")[: recipe.evaluate.questions]
    return Examples(training, validation, [len(prompt.prompt_ids(d.question, d.before)) for d in asked])


def assumed(recipe: Recipe) -> Examples:
    """Examples to plan over where there is no tokenizer: as many as the recipe takes, half of each of them learnt."""
    tokens = min(ASSUMED_TOKENS, recipe.model.max_length)
    example = Example((0,) * tokens, tokens // 2)
    rows = recipe.data.rows or ASSUMED_ROWS
    held = [max(1, round(share * rows)) if share else 0 for share in (recipe.data.validation, recipe.data.test)]
    return Examples(
        [example] * max(rows - sum(held), 1),
        [example] * held[0],
        [tokens // 2] * min(held[1], recipe.evaluate.questions),
    )


def described(given: Examples) -> str:
    """Assumed examples in words."""
    return f"{len(given.training):,} examples of {len(given.training[0]):,} tokens to train on"


@dataclass(frozen=True)
class Elsewhere:
    """The run on a machine of the table: bytes on each device, seconds, kilowatt-hours, dollars."""

    machine: Machine
    precision: str
    memory: Memory
    times: Times
    energy: float
    cost: float
    largest: dict[str, tuple[Decoder | None, float]]

    @property
    def fits(self) -> bool:
        """Whether one device holds the run: a model of its own, or its share of one, and a share of each step."""
        return self.memory.needed <= self.machine.usable

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **asdict(self.machine),
            "precision": self.precision,
            "needed_bytes": self.memory.needed,
            "fits": self.fits,
            "seconds": self.times.as_dict(),
            "kilowatt_hours": self.energy,
            "cost_usd": self.cost,
            "largest": {
                use: {"model": model.name if model else None, "parameters": size}
                for use, (model, size) in self.largest.items()
            },
        }


@dataclass(frozen=True)
class Plan:
    """What a run will take on this machine, and on others. Bytes, seconds, kilowatt-hours, dollars."""

    recipe: Recipe
    forecast: Forecast
    precision: str
    device: str
    free: int
    energy: float
    cost: float
    fitting: Recipe | None
    elsewhere: list[Elsewhere]
    notes: list[str]

    @property
    def nearest(self) -> str:
        """What to change so that the run fits; empty where it does."""
        if self.fitting is None:
            return "no setting of this model fits: take a smaller one"
        return fitting.said(self.recipe, self.fitting)

    @property
    def fits(self) -> bool:
        """Whether this machine has the memory."""
        return self.forecast.memory.needed <= self.free

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.recipe.name,
            "model": self.recipe.model.base,
            "precision": self.precision,
            "device": self.device,
            **self.forecast.as_dict(),
            "free_bytes": self.free,
            "fits": self.fits,
            "nearest": self.nearest,
            "kilowatt_hours": self.energy,
            "cost_usd": self.cost,
            "machines": [one.as_dict() for one in self.elsewhere],
            "assumed": ASSUMED,
            "notes": self.notes,
        }


def plan(
    recipe: Recipe,
    given: Examples,
    progress: Progress,
    *,
    measure: bool = True,
    names: Sequence[str] = (),
    nodes: int = 1,
    notes: Sequence[str] = (),
) -> Plan:
    """Plan a run over some examples; `names` are machines of the table, of which there are `nodes` each.

    `measure`: go through a few steps in a process of its own, where the weights are here and the run fits.
    """
    notes = list(notes)
    setup = setup_of(recipe, [*map(len, given.training)])
    job = job_of(recipe, setup, given.training, given.validation, given.prompts)
    forecast, free = forecast_here(job, setup.device), fitting.free_memory(setup.device)
    if measure and not models.has_weights(recipe.model):
        notes.append("The model's weights are not here: planned from its configuration.")
    elif measure and job.paired:
        notes.append("Pairs are planned from the configuration; the reference goes through them once more.")
    elif measure and forecast.memory.needed > free:
        notes.append("Not measured, since it will not fit.")
    elif measure:
        progress.say("Trying a few steps (--no-measure plans from the configuration alone)")
        forecast = _measured(recipe, job, setup, given)
    if forecast.memory.answers_needed > free:
        notes.append("The evaluation's answers will not fit: lower evaluate.batch.")
    nearest: Recipe | None = recipe
    if forecast.memory.needed > free:
        nearest = fitting.fitted(recipe, setup, given.training, given.validation, free)
    energy, cost = energy_and_cost(forecast.times.total, _watts(setup.device), None, electricity())
    return Plan(
        recipe=recipe,
        forecast=forecast,
        precision=setup.precision,
        device=environment.describe()["machine"] if setup.device.type == "cpu" else torch.cuda.get_device_name(),
        free=free,
        energy=energy,
        cost=cost,
        fitting=nearest,
        elsewhere=elsewhere(recipe, given, [several(machine, nodes) for machine in machines(names)]),
        notes=notes,
    )


def elsewhere(recipe: Recipe, given: Examples, others: Sequence[Machine]) -> list[Elsewhere]:
    """The same recipe on other machines; those that go through it in the same way share what is traced for it."""
    setups = [_setup_on(recipe, given, machine) for machine in others]
    jobs = {setup: job_of(recipe, setup, given.training, given.validation, given.prompts) for setup in set(setups)}
    memories = {(setup, m.kind): jobs[setup].memory(m.kind) for setup, m in zip(setups, others, strict=True)}
    found = []
    for setup, machine in zip(setups, others, strict=True):
        job, memory = jobs[setup], memories[setup, machine.kind]
        shares = machine.devices if recipe.train.distributed.strategy != "ddp" else 1
        found.append(_on(machine, job, job.shared(memory, shares)))
    return found


def _on(machine: Machine, job: Job, memory: Memory) -> Elsewhere:
    share = efficiency(machine.kind)
    compute = share.compute * machine.peak(job.precision)
    rates = Rates(faster(job) * compute, share.bandwidth * 1e9 * machine.bandwidth, share.launch, forward=compute)
    seconds = times(job, rates, machine.devices)
    energy, cost = energy_and_cost(seconds.total, machine.watts, machine.price, electricity())
    return Elsewhere(
        machine=machine,
        precision=job.precision,
        memory=memory,
        times=seconds,
        energy=energy,
        cost=cost,
        largest={use: (largest(machine, use), largest_size(machine, use)) for use in USES},
    )


def _setup_on(recipe: Recipe, given: Examples, machine: Machine) -> Setup:
    """How a machine goes through the recipe's steps: what is automatic here may be something else there."""
    section, lengths = recipe.train, [*map(len, given.training)]
    here, device = setup_of(recipe, lengths), torch.device("cpu" if machine.kind == "cpu" else "cuda")
    compiled = compiles(recipe, device, lengths, here.steps)
    precision = machine.precision if section.precision == "auto" else section.precision
    return replace(
        here,
        precision=precision,
        device=device,
        tokens_per_batch=tokens_at_once(section, device, compiled=compiled),
        compiled=compiled,
        int8=in_int8(section, device, precision, compiled=compiled),
    )


def _measured(recipe: Recipe, job: Job, setup: Setup, given: Examples) -> Forecast:
    seen = rehearse.rehearse(recipe, job, given.training, given.validation)
    memory = memory_measured(job, setup.device, seen)
    return forecast_of(job, memory, times(job, rates_measured(seen)), measured=True)


def _watts(device: torch.device) -> float:
    if device.type == "cpu":
        return WATTS_A_CORE * torch.get_num_threads()
    name = torch.cuda.get_device_name()
    like = [one for one in machines() if one.kind == "cuda" and one.device.removeprefix("GeForce ").split()[0] in name]
    return like[0].watts / like[0].devices if like else 300.0
