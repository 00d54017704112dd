"""The curves, read for the user while they grow: each rule has a threshold, a step and a sentence of advice.

A step's loss is the mean over a handful of examples, so that it scatters. Where a rule could take scatter for a trend,
it measures the scatter (`Curves.noise`) and asks for so much more. docs/curves.md has the rules as a table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import numpy as np

RECENT = 10  # steps whose median is "where the loss stands": half of them may be outliers
EARLY_NOISE = 0.15  # scatter of the log loss until it can be measured: MedQuAD's at 16 examples a step
LEAST_RISE = 0.2  # nats; a loss near zero doubles easily, and nothing is wrong
DIVERGED = 1.5  # each of DIVERGED_STEPS losses in a row is this many times the lowest that the loss has stood at ...
DIVERGED_STEPS = 5  # ... since one such loss is chance or a spike; five in a row have been no chance in any run seen
DIVERGED_NOISE = 2  # ... and so many times the scatter more
WORSE = 1.2  # or, where the loss swings so widely that it stays within its own scatter, each of ...
WORSE_STEPS = 8  # ... so many losses in a row is this many times the highest of the first AT_FIRST ones
AT_FIRST = 3
BACK = 1.1  # the trouble begins after the last step within this of the lowest: what was saved before it is good
RISEN = 1.1  # the loss stands this much above the lowest that it has stood at, and RISEN_NOISE times the scatter more
RISEN_NOISE = 4  # a median of ten against the lowest of many such medians: four is beyond chance
NOISIEST = 0.2  # more scatter than this is itself a sign: a run that has lost its way scatters
COLLAPSED = 0.05  # of the first gradients' norm is left and the loss has hardly fallen: nothing leads back from there
HARDLY = 0.1  # by less than this share
SPIKE = 1.5  # one step's loss over the median of the BEFORE steps before it, and SPIKE_NOISE times the scatter more
SPIKE_NOISE = 7
SETTLED = 3  # the next three steps are back: otherwise it's no spike
GRADIENT_SPIKE = 10  # times the median norm of the steps before; a healthy run on MedQuAD had one of 5.5 times
GRADIENT_FLOOR = 1.0  # a norm that train.clip's default leaves as it is
BEFORE = 20  # steps that a spike is measured against; at least half as many are needed
SMALL_STEP = 0.5  # an epoch's last step may hold few answer tokens and scatters more: below this share it is no spike
RHYTHM = 40  # steps that are looked at for a rhythm
RHYTHM_SHARE = 0.7  # of their variance lies in one frequency: for noise alone once in ten million (Fisher 1929)
RHYTHM_SIZE = 0.1  # the swing to either side, as a share of the loss
SWING = 0.03  # validation turns by this share; it is taken over the same rows each time and hardly scatters
SWINGS = 3  # turns in a row
NO_GRADIENT = 5  # steps in a row whose gradient is exactly zero
LEAST_STEPS = 10  # fewer tell nothing of a course
FLAT = 0.01  # the loss fell by less than this share from the first to the last tenth, and third, of the steps
SURE = 0.05  # ... and with SURE_ERRORS standard errors more still by less than this; nor has it risen by as much
SURE_ERRORS = 2
FITTED = 0.1  # nats; what is this low is learnt, and need not fall
SLOW = 0.05  # the loss falls as steadily at the end as at the start, and by less than this share in all
STEADY = 0.4  # second to last quarter against first to third: 1 on a line, 0.5 under cosine, 0.3 where it has flattened
TREND = 4  # standard errors that make a fall certain
HALF = 0.5  # the share of the planned steps from which a run can be called slow or flat
OVERFIT = 0.02  # the last validation loss is this share above the best, and the best is not among the last two
STILL_FALLING = 0.01  # the last validation improved on the one before by more than this share

FATAL = ("not-a-number", "divergence")  # these stop the run
ADVICE = {
    "not-a-number": "The loss or its gradient is no number: divide train.learning_rate by 10, "
    "or set train.precision: fp32.",
    "divergence": "The loss rises and does not come back: divide train.learning_rate by 3, or lengthen train.warmup.",
    "learning-rate-too-high": "The loss has risen, or is stuck where no gradient leads on: "
    "divide train.learning_rate by 3, or lengthen train.warmup.",
    "oscillation": "The loss swings up and down: divide train.learning_rate by 2, or raise train.examples_per_step.",
    "loss-spike": "One step's loss stands far out and comes back: look at the rows of this step, "
    "and leave out with data.drop what is wrong with them.",
    "gradient-spike": "One step's gradient is many times the usual: look at the rows of this step, "
    "and keep train.clip at 1 or below.",
    "no-gradient": "No gradient reaches the weights that learn: check train.lora.targets and prompt.learn.",
    "dead-adapters": "These adapters have learnt nothing: leave their modules out of train.lora.targets.",
    "stagnation": "The loss hardly moves: multiply train.learning_rate by 3.",
    "learning-rate-too-low": "The loss falls steadily, but too slowly to arrive: multiply train.learning_rate by 3.",
    "over-fitting": "Validation has risen since this step while training went on: lower train.epochs, "
    "set train.patience, or add data.",
    "still-learning": "Validation was still falling at the end: raise train.epochs.",
}


@dataclass(frozen=True)
class Finding:
    """Something that the curves show: its kind, the step it shows at, what to do; for a spike the rows in it."""

    kind: str
    step: int
    advice: str
    rows: tuple[int, ...] = ()


@dataclass
class Curves:
    """The numbers of a training so far. Losses are in nats a token."""

    planned: int = 0  # optimizer steps of the whole run; 0 where it is over
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float | None] = field(default_factory=list)  # of the gradient, unclipped; None where unknown
    tokens: list[int] = field(default_factory=list)  # answer tokens of each step, the earlier ones included
    validations: list[tuple[int, float]] = field(default_factory=list)
    lowest: float = math.inf  # the lowest that the loss has stood at

    def add(self, row: dict[str, Any]) -> None:
        """Take in a row of `metrics.jsonl`."""
        if "validation_loss" in row:
            self.validations.append((row["step"], row["validation_loss"]))
        elif "loss" in row:
            self.steps.append(row["step"])
            self.losses.append(row["loss"])
            self.norms.append(row.get("grad_norm"))
            self.tokens.append(row.get("answer_tokens") or len(self.steps))
            if len(self.losses) <= 3:
                self.lowest = min(self.lowest, row["loss"])
            if len(self.losses) >= RECENT:
                self.lowest = min(self.lowest, median(self.losses[-RECENT:]))

    @property
    def over(self) -> float:
        """The loss above which a step counts towards divergence."""
        return max(self.lowest * DIVERGED * math.exp(DIVERGED_NOISE * self.noise()), self.lowest + LEAST_RISE)

    @property
    def outside(self) -> bool:
        """Whether the last step's loss is further from the lowest than scatter takes it, or no number."""
        limit = max(self.lowest * BACK * math.exp(DIVERGED_NOISE * self.noise()), self.lowest + LEAST_RISE)
        return bool(self.losses) and not self.losses[-1] <= limit

    def good(self, fault: str) -> tuple[float, float]:
        """The highest loss, and share of the best validation loss, that shows no sign yet of a fatal fault."""
        return (BACK * self.lowest, BACK) if fault == "divergence" else (self.over, DIVERGED)

    def noise(self) -> float:
        """Standard deviation of the log loss from step to step, before the last few; a slow trend doesn't add to it."""
        before = [math.log(max(loss, 1e-9)) for loss in self.losses[-RHYTHM - DIVERGED_STEPS : -DIVERGED_STEPS]]
        if len(before) <= RECENT:
            return EARLY_NOISE
        return median(abs(other - one) for one, other in itertools.pairwise(before)) / 0.954  # of a normal distribution

    def error(self, steps: float) -> float:
        """Standard error of the difference between the mean log losses of so many steps and of as many others."""
        return self.noise() * math.sqrt(2 / max(steps, 1))

    def small(self, place: int) -> bool:
        """Whether a step holds so few answer tokens that its numbers scatter more than the others'."""
        own, *others = (
            self.tokens[at] - (self.tokens[at - 1] if at else 0) for at in range(place, max(place - BEFORE, -1), -1)
        )
        return bool(others) and own < SMALL_STEP * median(others)


class Watch:
    """The rules held against the curves as they grow."""

    def __init__(self, planned: int = 0) -> None:
        self.curves = Curves(planned)
        self.events: list[Finding] = []

    @property
    def fatal(self) -> Finding | None:
        """What the run must stop for."""
        return next((finding for finding in self.events if finding.kind in FATAL), None)

    def see(self, row: dict[str, Any]) -> list[Finding]:
        """Take in a row of `metrics.jsonl`; what is new in it, and what holds of the whole course by now."""
        if self.fatal:
            return []
        self.curves.add(row)
        new = self._events()
        self.events += new
        return new if self.fatal else new + self._course(COURSE)

    def findings(self) -> list[Finding]:
        """What has happened, and what the curves of the whole training show."""
        if self.fatal:
            return self.events
        self.curves.planned = 0
        return self.events + self._course(COURSE | AT_THE_END)

    def _events(self) -> list[Finding]:
        known = {finding.kind for finding in self.events}
        found = []
        for kind, rule in EVENTS.items():
            step = rule(self.curves) if kind not in known or kind in REPEATED else None
            if step is not None:
                found.append(Finding(kind, step, ADVICE[kind]))
                if kind in FATAL:
                    break
        taken = {(finding.kind, finding.step) for finding in self.events}  # a validation's row shows no new step
        return [finding for finding in found if (finding.kind, finding.step) not in taken]

    def _course(self, rules: dict[str, Rule]) -> list[Finding]:
        if any(finding.kind in ("learning-rate-too-high", "no-gradient") for finding in self.events):
            rules = {kind: rule for kind, rule in rules.items() if kind not in ("stagnation", "learning-rate-too-low")}
        steps = {kind: rule(self.curves) for kind, rule in rules.items()}
        return [Finding(kind, step, ADVICE[kind]) for kind, step in steps.items() if step is not None]


Rule = Callable[[Curves], "int | None"]


def _not_a_number(curves: Curves) -> int | None:
    last = [(step, value) for step in curves.steps[-1:] for value in (curves.losses[-1], curves.norms[-1] or 0.0)]
    return next((step for step, value in [*last, *curves.validations[-1:]] if not math.isfinite(value)), None)


def _divergence(curves: Curves) -> int | None:
    losses = curves.losses
    high = len(losses) > DIVERGED_STEPS and min(losses[-DIVERGED_STEPS:]) > curves.over
    if not (high or (curves.noise() > EARLY_NOISE and _worse_than_at_first(losses))):
        return None
    fine = (at for at in range(len(losses) - 1, -1, -1) if losses[at] <= BACK * curves.lowest)
    return curves.steps[min(next(fine, 0) + 1, len(curves.steps) - 1)]


def _worse_than_at_first(losses: Sequence[float]) -> bool:
    first = max(losses[:AT_FIRST], default=0.0)
    limit = max(WORSE * first, first + LEAST_RISE)
    return len(losses) >= AT_FIRST + WORSE_STEPS and min(losses[-WORSE_STEPS:]) > limit


def _too_high(curves: Curves) -> int | None:
    if len(curves.losses) <= RECENT:
        return None
    return curves.steps[-1] if _has_risen(curves) or _has_collapsed(curves) else None


def _has_collapsed(curves: Curves) -> bool:
    """Whether the gradient has all but gone and the loss hasn't: too large a step has saturated the model."""
    first, last = ([norm for norm in part if norm] for part in (curves.norms[:3], curves.norms[-RECENT:]))
    if len(curves.norms) < 2 * RECENT or not first or not last or median(last) > COLLAPSED * median(first):
        return False
    return median(curves.losses[-RECENT:]) > (1 - HARDLY) * fmean(curves.losses[:3])


def _has_risen(curves: Curves) -> bool:
    level = curves.lowest
    scatter = RISEN_NOISE * min(curves.noise(), NOISIEST)
    return median(curves.losses[-RECENT:]) > max(level * RISEN * math.exp(scatter), level + LEAST_RISE)


def _loss_spike(curves: Curves) -> int | None:
    place = len(curves.losses) - 1 - SETTLED
    before, after = curves.losses[max(place - BEFORE, 0) : max(place, 0)], curves.losses[-SETTLED:]
    if len(before) < BEFORE // 2:
        return None
    usual = median(before)
    limit = max(usual * max(SPIKE, math.exp(SPIKE_NOISE * curves.noise())), usual + LEAST_RISE)
    far = curves.losses[place] > limit >= median(after)
    return curves.steps[place] if far and not curves.small(place) else None


def _gradient_spike(curves: Curves) -> int | None:
    *before, last = [norm for norm in curves.norms[-BEFORE - 1 :] if norm is not None] or [0.0]
    if len(before) < BEFORE // 2 or curves.small(len(curves.norms) - 1):
        return None
    return curves.steps[-1] if last > max(GRADIENT_SPIKE * median(before), GRADIENT_FLOOR) else None


def _no_gradient(curves: Curves) -> int | None:
    last = curves.norms[-NO_GRADIENT:]
    return curves.steps[-1] if len(last) == NO_GRADIENT and all(norm == 0 for norm in last) else None


def _oscillation(curves: Curves) -> int | None:
    if _swings([loss for _, loss in curves.validations]):
        return curves.validations[-1][0]
    return curves.steps[-1] if len(curves.losses) >= RHYTHM and _rhythm(np.array(curves.losses[-RHYTHM:])) else None


def _rhythm(losses: np.ndarray) -> bool:
    """Whether the losses [RHYTHM] go up and down at one frequency, four times or more, and far."""
    time = np.arange(RHYTHM)
    rest = losses - np.polynomial.Polynomial.fit(time, losses, 1)(time)
    power = 2 * np.abs(np.fft.rfft(rest)) ** 2 / RHYTHM**2  # [frequencies]; they add up to the variance
    power[-1] /= 2
    loudest = float((power[:-1] + power[1:])[RHYTHM // 10 :].max())  # a rhythm between two frequencies shows in both
    return loudest > RHYTHM_SHARE * power.sum() and math.sqrt(2 * loudest) > RHYTHM_SIZE * float(losses.mean())


def _swings(losses: list[float]) -> bool:
    """Whether the last few moves go up and down in turn, each by more than a share."""
    moves = [(other - one) / max(one, 1e-9) for one, other in itertools.pairwise(losses[-SWINGS - 2 :])]
    large = len(moves) > SWINGS and all(abs(move) > SWING for move in moves)
    return large and all(one * other < 0 for one, other in itertools.pairwise(moves))


def _stagnation(curves: Curves) -> int | None:
    if not _long_enough(curves, LEAST_STEPS) or fmean(curves.losses[-RECENT:]) < FITTED:
        return None
    parts = (_tenth(curves), len(curves.losses) // 3)
    flat = all(-SURE < _fall(curves, part) < min(FLAT, SURE - SURE_ERRORS * curves.error(part)) for part in parts)
    return curves.steps[-1] if flat else None


def _too_low(curves: Curves) -> int | None:
    if not _long_enough(curves, 2 * LEAST_STEPS):
        return None
    share = len(curves.losses) / max(curves.planned, len(curves.losses))
    if not FLAT <= _fall(curves, _tenth(curves)) < SLOW * share:
        return None
    quarter = len(curves.losses) // 4
    first, second, third, last = (fmean(curves.losses[at * quarter : (at + 1) * quarter]) for at in range(4))
    early, late = (first - third) / first, (second - last) / first
    certain = first > second > third > last and min(early, late) > TREND * curves.error(quarter)
    return curves.steps[-1] if certain and late > STEADY * early else None


def _long_enough(curves: Curves, least: int) -> bool:
    return len(curves.losses) >= max(least, HALF * curves.planned)


def _tenth(curves: Curves) -> int:
    return max(len(curves.losses) // 10, 3)


def _fall(curves: Curves, part: int) -> float:
    """By what share the loss fell from its first to its last so many steps."""
    return 1 - fmean(curves.losses[-part:]) / max(fmean(curves.losses[:part]), 1e-9)


def _over_fitting(curves: Curves) -> int | None:
    points = curves.validations
    if len(points) < 3:
        return None
    best_step, best = min(points, key=lambda point: point[1])
    if points[-1][1] <= (1 + OVERFIT) * best or best_step in (points[-1][0], points[-2][0]):
        return None
    then = [loss for step, loss in zip(curves.steps, curves.losses, strict=True) if step <= best_step][-RECENT:]
    risen = bool(then) and median(curves.losses[-RECENT:]) > RISEN * median(then)
    return None if risen else best_step


def _still_learning(curves: Curves) -> int | None:
    points = curves.validations
    if len(points) < 3:
        return None
    falling = points[-1][1] == min(loss for _, loss in points) and points[-2][1] > (1 + STILL_FALLING) * points[-1][1]
    return points[-1][0] if falling else None


# What happens at a step; a fault that is fatal hides what comes after it.
EVENTS: dict[str, Rule] = {
    "not-a-number": _not_a_number,
    "divergence": _divergence,
    "learning-rate-too-high": _too_high,
    "oscillation": _oscillation,
    "loss-spike": _loss_spike,
    "gradient-spike": _gradient_spike,
    "no-gradient": _no_gradient,
}
REPEATED = ("loss-spike", "gradient-spike")
# What holds of the whole course so far, and what can only be said of one that is over.
COURSE: dict[str, Rule] = {
    "stagnation": _stagnation,
    "learning-rate-too-low": _too_low,
    "over-fitting": _over_fitting,
}
AT_THE_END: dict[str, Rule] = {"still-learning": _still_learning}
