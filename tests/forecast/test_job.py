from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.forecast.job import Job, Length, batches, over_epochs
from residency.forecast.speed import Rates, Times, energy_and_cost, matrix_product_speed, times
from residency.forecast.trace import Batch, Trace
from residency.forecast.work import fit_work
from residency.prompts import Example
from residency.recipe import Recipe
from residency.row_attention import rows_of
from residency.train import planning
from residency.train.setup import setup_of


def job_for(recipe: dict[str, Any], *, tokens: int = 128, **train: Any) -> Job:
    settings = {**recipe["train"], "tokens_per_batch": tokens, "precision": "fp32", **train}
    loaded = Recipe.parse({**recipe, "train": settings})
    examples = [Example(tuple(range(30 + place)), 20) for place in range(20)]
    return planning.job_of(loaded, setup_of(loaded, [*map(len, examples)]), examples, examples[:4], [20, 24])


@pytest.fixture
def job(small_recipe: dict[str, Any]) -> Job:
    return job_for(small_recipe)


def test_micro_batches_are_those_of_training() -> None:
    found = batches([Length(10, 3), Length(30, 9), Length(20, 5)], 60)
    assert found == [Batch(1, 30, 9), Batch(2, 20, 8)]


def test_the_work_of_any_shape_follows_from_three(job: Job) -> None:
    shape = Batch(3, 41, 50)
    assert job.work.training(shape) == pytest.approx(job.trace(shape).flops, rel=1e-6)
    assert job.work.forward(shape) == pytest.approx(job.trace(shape, backward=False).flops, rel=1e-6)


def test_the_work_of_long_rows_that_lie_end_to_end_follows_too(job: Job) -> None:
    rows = rows_of([300, 200], 0)
    shape = Batch(2, 300, 50, packed=500, area=rows.area, kept=rows.kept)
    assert job.work.training(shape) == pytest.approx(job.trace(shape).flops, rel=1e-6)
    assert job.work.training(shape) < job.work.training(Batch(2, 300, 50))
    without = replace(shape, kept=2)
    assert job.trace(without).flops == job.trace(shape).flops
    assert job.trace(without).saved < job.trace(shape).saved


def test_lora_works_less_than_full_and_holds_less(small_recipe: dict[str, Any]) -> None:
    lora, full = (job_for(small_recipe, method=method, lora={"rank": 1}) for method in ("lora", "full"))
    assert lora.counts.gradients < full.counts.gradients
    assert lora.counts.trainable < full.counts.trainable == full.counts.base
    assert lora.work.training(Batch(1, 40, 20)) < full.work.training(Batch(1, 40, 20))


def test_memory_grows_with_the_micro_batch(small_recipe: dict[str, Any]) -> None:
    small, large = (job_for(small_recipe, tokens=tokens).memory() for tokens in (64, 256))
    assert small.activations + small.logits < large.activations + large.logits
    assert small.weights == large.weights


def test_every_phase_of_a_run_is_foreseen(job: Job) -> None:
    phases = job.memory().phases
    assert list(phases) == [
        "load", "training step", "validation", "checkpoint", "merge and save", "answers: load", "answers",
    ]  # fmt: skip


def test_a_config_alone_is_enough(small_recipe: dict[str, Any], llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama_folder / "config.json").read_text("utf-8"), "utf-8")
    bare = job_for({**small_recipe, "model": {"base": str(tmp_path)}})
    whole = job_for(small_recipe)
    assert bare.counts.weights == whole.counts.weights
    assert bare.largest == whole.largest


@settings(deadline=None, max_examples=40)
@given(values=st.lists(st.floats(0, 100), min_size=1, max_size=6), steps=st.integers(1, 30))
def test_a_run_is_its_epochs_over_and_over(values: list[float], steps: int) -> None:
    assert over_epochs(values, steps) == pytest.approx(sum(values[step % len(values)] for step in range(steps)))


def test_time_is_work_over_speed(job: Job) -> None:
    training, validation = job.flops()
    found = times(job, Rates(compute=1e9))
    assert found.training == pytest.approx(training / 1e9)
    assert found.validation == pytest.approx(validation / 1e9)
    assert found.total == found.training + found.validation + found.saving
    assert found.step == pytest.approx(found.training / job.steps)


def test_a_faster_machine_and_a_second_device_never_take_longer(job: Job) -> None:
    slow = times(job, Rates(compute=1e9, bandwidth=1e9, launch=1e-6, step=0.1))
    late = times(job, Rates(1e9, 1e9, 1e-6, 0.1, start=7.0))
    assert late.step == slow.step
    assert late.total == pytest.approx(slow.total + 7.0)  # once, however many steps
    for better in (Rates(2e9, 1e9, 1e-6, 0.1), Rates(1e9, 2e9, 1e-6, 0.1), Rates(1e9, 1e9, 0, 0.1)):
        assert times(job, better).total <= slow.total
    assert times(job, Rates(1e9, 1e9, 1e-6, 0.1), devices=2).total < slow.total


def test_energy_and_cost_go_by_the_hour() -> None:
    assert energy_and_cost(7200, 500, 3.0, 0.3) == (1.0, 6.0)
    assert energy_and_cost(7200, 500, None, 0.3) == (1.0, pytest.approx(0.3))
    assert Times(1, 2, 3).as_dict()["total"] == 5


def test_a_matrix_product_has_a_speed() -> None:
    assert matrix_product_speed(torch.float32, torch.device("cpu"), size=128, seconds=0.05) > 1e8


def test_work_is_fitted_to_a_polynomial() -> None:
    def traced(batch: Batch) -> Trace:
        forward = 5 * batch.tokens + batch.tokens * batch.width
        return Trace(0, 0, 3 * forward, forward)

    fitted = fit_work(traced)
    assert fitted.training(Batch(2, 10, 3)) == pytest.approx(3 * (5 * 20 + 200))
    assert fitted.forward(Batch(2, 10, 3)) == pytest.approx(5 * 20 + 200)
