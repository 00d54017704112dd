from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.train import watch
from residency.train.watch import ADVICE, FATAL, Finding, Watch

FALLING = [4 - 0.05 * step for step in range(40)]
ZIGZAG = [4 - 0.05 * step + 0.1 * (-1) ** step for step in range(40)]  # the swing is under a tenth of the loss
SETTLING = [1 + 3 * 0.9**step for step in range(60)]
CREEPING = [4 - 0.003 * step for step in range(40)]
SWINGING = [3 + 0.6 * math.sin(0.9 * step) for step in range(60)]


def read_curves(metrics: list[dict[str, Any]]) -> list[Finding]:
    """What the curves of a whole training show."""
    watch = Watch()
    for row in metrics:
        watch.see(row)
    return watch.findings()


def rows(losses: Sequence[float], validations: Sequence[float] = (), **more: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows as training writes them: a validation after every tenth step, where there is one left."""
    found: list[dict[str, Any]] = []
    left = list(validations)
    for place, loss in enumerate(losses):
        found.append({"step": place + 1, "loss": loss, **{key: values[place] for key, values in more.items()}})
        if (place + 1) % 10 == 0 and left:
            found.append({"step": place + 1, "validation_loss": left.pop(0)})
    return found + validated(left, len(losses) // 10)


def validated(losses: Sequence[float], before: int = 0) -> list[dict[str, Any]]:
    return [{"step": 10 * place, "validation_loss": loss} for place, loss in enumerate(losses, start=before + 1)]


def kinds(found: Sequence[Finding]) -> list[str]:
    return [finding.kind for finding in found]


def spiked(place: int, height: float) -> list[float]:
    return [*FALLING[:place], height, *FALLING[place + 1 :]]


# The curve that a rule is for, and the nearest one that it must leave alone.
@pytest.mark.parametrize(
    ("kind", "step", "fires", "silent"),
    [
        ("not-a-number", 2, rows([2.0, math.nan, 2.0]), rows([2.0, 2.0, 2.0])),
        ("not-a-number", 3, rows(FALLING, grad_norm=[1.0, 1.0, math.inf] + [1.0] * 37), rows(FALLING)),
        ("not-a-number", 10, rows(FALLING, [math.nan]), rows(FALLING, [3.0])),
        ("divergence", 11, rows([2.0] * 10 + [9.0] * 30), rows([3.0] * 10 + [9.0] * 4 + SETTLING)),
        ("divergence", 42, rows(FALLING + [2.05 * 1.1**step for step in range(1, 20)]), rows(FALLING + [2.05] * 20)),
        ("divergence", 2, rows([4.0, 9.0, 30.0, 80.0, 95.0, 99.0]), rows([4.0, 4.5, 5.0, 4.6, 4.1, 3.8])),
        ("learning-rate-too-high", 25, rows([2.0] * 20 + [2.6] * 20), rows([2.0] * 20 + [2.1] * 20)),
        ("learning-rate-too-high", 26, rows([2.0] * 40, grad_norm=[1.0] * 20 + [0.01] * 20),
         rows([2.0] * 40, grad_norm=[1.0] * 20 + [0.1] * 20)),
        ("learning-rate-too-high", 26, rows([2.0] * 40, grad_norm=[1.0] * 20 + [0.01] * 20),
         rows(FALLING, grad_norm=[1.0] * 20 + [0.01] * 20)),
        ("oscillation", 40, rows(SWINGING), rows(ZIGZAG)),
        ("oscillation", 50, rows(SETTLING, [3.0, 2.5, 2.8, 2.4, 2.7]), rows(SETTLING, [3.0, 2.5, 2.4, 2.44, 2.4])),
        ("loss-spike", 21, rows(spiked(20, 6.0)), rows(spiked(20, 4.0))),
        ("gradient-spike", 30, rows(FALLING, grad_norm=[0.5] * 29 + [6.0] + [0.5] * 10),
         rows(FALLING, grad_norm=[0.5] * 29 + [4.0] + [0.5] * 10)),
        ("gradient-spike", 30, rows(FALLING, grad_norm=[0.05] * 29 + [1.1] + [0.05] * 10),
         rows(FALLING, grad_norm=[0.05] * 29 + [0.9] + [0.05] * 10)),
        ("no-gradient", 5, rows([2.0] * 40, grad_norm=[0.0] * 40),
         rows(FALLING, grad_norm=[0.0] * 4 + [0.1] * 36)),
        ("stagnation", 40, rows([2.0] * 40), rows(FALLING)),
        ("stagnation", 40, rows([2.0] * 40), rows([0.05] * 40)),
        ("learning-rate-too-low", 40, rows(CREEPING), rows([4 - 0.15 * (1 - 0.8**step) for step in range(40)])),
        ("over-fitting", 20, rows(FALLING, [3.0, 2.5, 2.6, 2.7]), rows(FALLING, [3.0, 2.5, 2.51, 2.52])),
        ("still-learning", 30, rows(FALLING, [3.0, 2.8, 2.6]), rows(FALLING, [3.0, 2.62, 2.6])),
    ],
)  # fmt: skip
def test_each_rule_fires_on_its_curve_and_not_on_the_next(
    kind: str, step: int, fires: list[dict[str, Any]], silent: list[dict[str, Any]]
) -> None:
    found = next(finding for finding in read_curves(fires) if finding.kind == kind)
    assert (found.step, found.advice) == (step, ADVICE[kind])
    assert kind not in kinds(read_curves(silent))


@pytest.mark.parametrize("losses", [FALLING, ZIGZAG, SETTLING, FALLING[:5]])
@pytest.mark.parametrize("validations", [[], [3.0, 2.51, 2.5, 2.5], [3.0, 2.5, 2.505], [3.0]])
def test_a_good_curve_gives_no_warning(losses: list[float], validations: list[float]) -> None:
    assert read_curves(rows(losses, validations)) == []


@st.composite
def healthy(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A run that falls by a tenth or more and scatters by up to a fifth, as do its gradients; validation flattens."""
    start, end, count = draw(st.floats(1.0, 8.0)), draw(st.floats(0.3, 0.9)), draw(st.integers(1, 300))
    bend, noise, random = draw(st.floats(1.0, 30.0)), draw(st.floats(0.0, 0.2)), Random(draw(st.integers(0, 2**32)))
    course = [(1 - math.exp(-bend * step / count)) / (1 - math.exp(-bend)) for step in range(count)]
    losses = [start * (1 - (1 - end) * share) * math.exp(random.gauss(0, noise)) for share in course]
    norms = [(0.2 + 0.5 * loss / start) * math.exp(random.gauss(0, 0.3)) for loss in losses]
    flattening = [start * (end + (1 - end) * 0.3**place) * random.uniform(0.995, 1.005) for place in range(count // 10)]
    return rows(losses, flattening, grad_norm=norms)


@settings(deadline=None, max_examples=40)
@given(healthy())
def test_a_healthy_run_that_scatters_never_raises_an_alarm(metrics: list[dict[str, Any]]) -> None:
    seen = Watch(planned=len(metrics))
    assert [finding for row in metrics for finding in seen.see(row)] == []
    assert set(kinds(read_curves(metrics))) <= {"still-learning"}


@settings(deadline=None, max_examples=40)
@given(healthy(), st.integers(0, 300), st.sampled_from([math.nan, math.inf]), st.sampled_from(["loss", "grad_norm"]))
def test_a_number_that_is_none_is_named_with_its_first_step_and_hides_what_comes_after(
    metrics: list[dict[str, Any]], place: int, value: float, key: str
) -> None:
    steps = [row for row in metrics if "loss" in row]
    for row in steps[place % len(steps) :: 3]:
        row[key] = value
    (found,) = read_curves(metrics)
    assert (found.kind, found.step) == ("not-a-number", steps[place % len(steps)]["step"])


@settings(deadline=None, max_examples=40)
@given(healthy(), st.floats(4.0, 50.0))
def test_a_run_that_leaves_its_level_for_good_is_stopped_five_steps_later(
    metrics: list[dict[str, Any]], height: float
) -> None:
    seen = Watch()
    losses = [row["loss"] for row in metrics if "loss" in row]
    for row in metrics:
        seen.see(row)
    for step in range(watch.DIVERGED_STEPS):
        assert seen.fatal is None
        seen.see({"step": len(losses) + step + 1, "loss": max(losses) * height})
    assert seen.fatal is not None
    assert seen.fatal.kind == "divergence"


def test_what_holds_of_the_whole_course_is_said_from_the_middle_of_the_run_on() -> None:
    seen = Watch(planned=100)
    said = [{finding.kind for finding in seen.see(row)} for row in rows([2.0] * 100)]
    assert said == [set()] * 49 + [{"stagnation"}] * 51


def test_a_slow_fall_is_judged_by_the_steps_that_are_left() -> None:
    fast = [4 - 0.006 * step for step in range(60)]  # three per cent by the middle, and six at the end
    seen = Watch(planned=60)
    assert [finding for row in rows(fast) for finding in seen.see(row)] == []
    assert "learning-rate-too-low" in kinds(read_curves(rows(fast[:30])))


def test_a_loss_that_rose_is_not_called_flat_or_over_fitted_as_well() -> None:
    risen = rows([2.0] * 20 + [2.6] * 30, [3.0, 2.5, 2.9, 3.0, 3.1])
    assert kinds(read_curves(risen)) == ["learning-rate-too-high"]


def test_training_and_validation_are_judged_apart() -> None:
    assert kinds(read_curves(rows([2.0] * 40, [3.0, 2.5, 2.7, 2.9]))) == ["stagnation", "over-fitting"]
    assert kinds(read_curves(rows([2.0] * 9, [3.0, 2.5, 2.7, 2.9]))) == ["over-fitting"]
    assert kinds(read_curves(validated([3.0, 2.5, 2.7, 2.9]))) == ["over-fitting"]


def test_each_spike_is_found_once_and_a_step_of_few_tokens_is_none() -> None:
    losses = spiked(20, 6.0)
    losses[32] = 6.0
    tokens = [100 * (step + 1) for step in range(40)]
    assert [finding.step for finding in read_curves(rows(losses, [2.5], answer_tokens=tokens))] == [21, 33]
    tokens[20:] = [count - 60 for count in tokens[20:]]  # step 21 had 40 of the usual 100
    assert [finding.step for finding in read_curves(rows(losses, [2.5], answer_tokens=tokens))] == [33]


def test_a_loss_that_swings_too_widely_to_stand_out_has_diverged_where_it_stays_above_its_beginning() -> None:
    wild = [5.96, 5.95, 4.57, 6.44, 6.11, 8.52, 5.66, 5.35, 7.58, 9.1, 10.88, 8.57, 10.59, 8.76, 9.57, 10.04, 12.29]
    (found,) = [one for one in read_curves(rows(wild)) if one.kind == "divergence"]
    assert found.step == 4  # the first after the lowest
    assert "divergence" not in kinds(read_curves(rows([loss / 1.3 if loss > 7 else loss for loss in wild])))


def test_a_loss_that_stays_where_it_went_is_no_spike() -> None:
    assert kinds(read_curves(rows([2.0] * 20 + [9.0] * 20))) == ["divergence"]


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([2.0] * 20 + [3.01] * 20, "divergence"),
        ([2.0] * 20 + [2.99] * 20, "learning-rate-too-high"),
        ([2.0] * 20 + [2.05] * 20, "stagnation"),
        ([2.0] * 20 + [2.19] * 20, None),
        ([2.0] * 20 + [1.99] * 20, "stagnation"),
        ([2.0] * 20 + [1.97] * 20, None),
    ],
)
def test_the_thresholds_are_where_the_module_says(losses: list[float], found: str | None) -> None:
    assert kinds(read_curves(rows(losses))) == ([found] if found else [])


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([3.0, 2.0, 2.03, 2.05], "over-fitting"),
        ([3.0, 2.0, 2.01, 2.03], None),  # within two per cent of the best
        ([3.0, 2.2, 2.0, 2.5], None),  # one bad validation is not a trend
        ([3.0, 2.5, 2.47], "still-learning"),
        ([3.0, 2.5, 2.48], None),
        ([3.0, 3.0, 3.0], None),
        ([3.0, 2.0], None),
    ],
)
def test_validation_needs_a_trend_and_not_one_point(losses: list[float], found: str | None) -> None:
    assert kinds(read_curves(validated(losses))) == ([found] if found else [])


def test_no_metrics_say_nothing() -> None:
    assert read_curves([]) == []


def test_every_advice_names_a_key_of_the_recipe() -> None:
    assert set(FATAL) <= set(ADVICE)
    for advice in ADVICE.values():
        assert advice.endswith(".")
        assert any(f" {section}." in advice for section in ("train", "data", "prompt"))


def test_the_table_in_the_docs_has_every_kind() -> None:
    table = (Path(__file__).parents[2] / "docs" / "curves.md").read_text("utf-8")
    assert [kind for kind in ADVICE if f"| {kind} |" not in table] == []
