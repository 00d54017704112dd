"""Courses of the learning rate, as pure functions of the step: they can be drawn without a model.

Where transformers has a schedule of the same name, this one gives the same rates; tests hold them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from residency.recipe import TrainSection
from residency.sections import ScheduleSection


@dataclass(frozen=True)
class After:
    """Where a step stands after the warm-up: steps since its end, steps that it took, and the share that is done."""

    step: int
    warmup: int
    steps: int

    @property
    def share(self) -> float:
        """Of the steps after the warm-up, 0 to 1."""
        return min(1.0, self.step / max(1, self.steps - self.warmup))


def _step(at: After, options: ScheduleSection) -> float:
    return float(options.drop ** min(options.drops, int(at.share * (options.drops + 1))))


def _inverse_square_root(at: After, options: ScheduleSection) -> float:
    """Vaswani et al. 2017 (arXiv:1706.03762); falls to half after three times the time scale."""
    scale = options.timescale or at.warmup or max(1, at.steps // 10)
    return 1.0 / math.sqrt(at.step / scale + 1)


def _warmup_stable_decay(at: After, options: ScheduleSection) -> float:
    """Hu et al. 2024 (arXiv:2404.06395); the decay is Hägele et al.'s 1 - sqrt (arXiv:2405.18392)."""
    decayed = (at.share - (1 - options.decay)) / options.decay
    return 1.0 - math.sqrt(max(0.0, decayed))


def _cosine_restarts(at: After, options: ScheduleSection) -> float:
    """Loshchilov and Hutter 2016 (arXiv:1608.03983), with cycles of one length."""
    return 0.0 if at.share >= 1 else 0.5 * (1 + math.cos(math.pi * (options.cycles * at.share % 1.0)))


COURSES: dict[str, Callable[[After, ScheduleSection], float]] = {
    "constant": lambda at, options: 1.0,
    "linear": lambda at, options: 1.0 - at.share,
    "cosine": lambda at, options: 0.5 * (1 + math.cos(math.pi * at.share)),
    "step": _step,
    "exponential": lambda at, options: options.end**at.share,
    "polynomial": lambda at, options: (1.0 - at.share) ** options.power,
    "inverse-square-root": _inverse_square_root,
    "warmup-stable-decay": _warmup_stable_decay,
    "cosine-restarts": _cosine_restarts,
}


def steps_of(section: TrainSection, examples: int) -> tuple[int, int]:
    """How many optimizer steps a run over so many examples takes, and how many an epoch."""
    per_epoch = math.ceil(examples / section.examples_per_step)
    return section.max_steps or math.ceil(section.epochs * per_epoch), per_epoch


def warmup_steps(section: TrainSection, steps: int) -> int:
    """How many of a run's `steps` warm up: `train.warmup` is a share of them below 1, a number of steps from 1 on."""
    return int(section.warmup if section.warmup >= 1 else math.ceil(section.warmup * steps))


def factor(section: TrainSection, steps: int) -> Callable[[int], float]:
    """The share of the peak learning rate at each step of a run of `steps`, counted from 0.

    It rises in a straight line from 0 through the warm-up, then follows the schedule, and is never under the floor.
    """
    course, options, warmup = COURSES[section.schedule], section.schedule_options, warmup_steps(section, steps)

    def at(step: int) -> float:
        if step < warmup:
            return step / warmup
        return options.floor + (1 - options.floor) * course(After(step - warmup, warmup, steps), options)

    return at


def curve(section: TrainSection, steps: int) -> list[float]:
    """The learning rate of each of a run's `steps`, as the training then logs it."""
    share = factor(section, steps)
    return [section.learning_rate * share(step) for step in range(steps)]
