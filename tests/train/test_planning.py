from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from residency import environment, models
from residency.forecast.memory import CONTEXT, count
from residency.forecast.speed import SAVING, Rates, times
from residency.progress import Silent
from residency.prompts import Example
from residency.recipe import Recipe
from residency.train.planning import Measured, job_of, memory_measured
from residency.train.rehearse import SAVED, chosen, saving_speed
from residency.train.setup import build_model, setup_of

EXAMPLES = [Example(tuple(range(30 + place)), 20) for place in range(20)]
METHODS = [
    {"method": "full"},
    {"method": "lora"},
    *({"method": "lora", "lora": {"variant": variant, "rank": 4}} for variant in ("rslora", "dora", "pissa", "olora")),
    {"method": "freeze", "freeze": {"train_last": 1}},
    {"method": "ia3"},
    {"method": "prompt-tuning", "prompt_tuning": {"virtual_tokens": 5}},
]


def recipe_with(small_recipe: dict[str, Any], train: dict[str, Any]) -> Recipe:
    return Recipe.parse({**small_recipe, "train": {**small_recipe["train"], **train}})


@pytest.mark.parametrize("train", METHODS, ids=lambda train: "-".join([train["method"], str(train.get("lora", ""))]))
def test_the_outline_of_a_model_counts_as_the_model_itself(small_recipe: dict[str, Any], train: dict[str, Any]) -> None:
    recipe = recipe_with(small_recipe, train)
    setup = setup_of(recipe, [*map(len, EXAMPLES)])
    job = job_of(recipe, setup, EXAMPLES, EXAMPLES[:4])
    model = build_model(recipe, setup, Silent())
    base = sum(parameter.numel() for parameter in models.load_base(recipe.model).parameters())
    assert job.counts == count(model, "adamw", base=base, precision=setup.precision, file=job.counts.file)
    assert job.largest[1].peak > 0
    assert job.work.training(job.largest[0]) > 0


def test_rows_that_are_packed_are_foreseen_so_and_those_with_noise_of_their_own_are_padded(
    small_recipe: dict[str, Any],
) -> None:
    found = {}
    for noise in (0, 5):
        recipe = recipe_with(small_recipe, {"method": "full", "neftune": noise})
        setup = setup_of(recipe, [*map(len, EXAMPLES)])
        found[setup.packs] = job_of(recipe, setup, EXAMPLES, EXAMPLES[:4])
    packed, padded = found[True], found[False]
    assert (packed.beginning, padded.beginning) == (19, None)  # all begin with the same, and place 19 predicts
    for own, other in zip(packed.batches[0], padded.batches[0], strict=True):
        assert own.packed == own.tokens < other.tokens
        assert (own.rows, own.width, own.learnt) == (other.rows, other.width, other.learnt)
    assert packed.flops()[0] < padded.flops()[0]
    assert packed.largest[1].peak < padded.largest[1].peak


def test_frozen_layers_cost_no_backward_pass(small_recipe: dict[str, Any]) -> None:
    flops = {}
    for method in ("full", "freeze"):
        recipe = recipe_with(small_recipe, {"method": method, "freeze": {"train_last": 1}})
        job = job_of(recipe, setup_of(recipe, [*map(len, EXAMPLES)]), EXAMPLES, [])
        flops[method] = job.flops()[0]
    assert flops["freeze"] < flops["full"]


def test_packed_weights_are_counted_in_four_bits(small_recipe: dict[str, Any]) -> None:
    weights = {}
    for method in ("lora", "qlora"):
        recipe = recipe_with(small_recipe, {"method": method})
        weights[method] = job_of(recipe, setup_of(recipe, [*map(len, EXAMPLES)]), EXAMPLES, []).counts.weights
    assert 0 < weights["qlora"] < weights["lora"]


def test_packed_weights_are_as_many_bytes_as_bitsandbytes_takes(small_recipe: dict[str, Any]) -> None:
    pytest.importorskip("bitsandbytes")
    recipe = recipe_with(small_recipe, {"method": "qlora"})
    setup = setup_of(recipe, [*map(len, EXAMPLES)])
    counted = job_of(recipe, setup, EXAMPLES, []).counts.weights
    model = build_model(recipe, setup, Silent())
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    assert counted == pytest.approx(held, rel=0.05)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_takes_no_less_than_its_rehearsal_and_the_heap_of_a_long_one_grows(
    small_recipe: dict[str, Any], device: str
) -> None:
    recipe, gib = recipe_with(small_recipe, {"method": "lora"}), 2**30
    job = job_of(recipe, setup_of(recipe, [*map(len, EXAMPLES)]), EXAMPLES, [])
    job = replace(job, counts=replace(job.counts, weights=gib))  # so that they weigh in a step
    seen = Measured(job.steps, 4 * gib, gib, compute=1e9, forward=1e9, step=0, start=0, saving=1e9)
    held = [
        memory_measured(replace(job, steps=steps), torch.device(device), seen).phases["training step"].held
        for steps in (seen.steps, seen.steps + 30, 1000 * seen.steps)
    ]
    fixed = job.counts.weights + job.counts.gradients + job.counts.optimizer
    if device == "cpu":
        assert held[0] == pytest.approx(seen.peak, rel=0.01)
        assert held[0] < held[1] < held[2] == pytest.approx(environment.Heap.GROWN * seen.peak, rel=0.01)
    else:
        assert held == [pytest.approx(CONTEXT + fixed + 1.1 * (seen.peak - fixed), rel=0.01)] * 3


def test_the_second_rehearsed_step_has_the_largest_micro_batch(small_recipe: dict[str, Any]) -> None:
    examples = [Example(tuple(range(10 + 3 * place)), 5) for place in range(20)]
    train = {"examples_per_step": 1, "tokens_per_batch": 256}
    recipe = recipe_with(small_recipe, train)
    job = job_of(recipe, setup_of(recipe, [*map(len, examples)]), examples, [])
    steps = chosen(job, examples)
    assert len(steps) == 10
    assert steps[1] == [examples[-1]] and examples[-1] not in steps[0]
    one = replace(job, epoch=job.epoch[:1], order=job.order[:1])
    assert len(chosen(one, examples)) == 1


def test_a_training_with_checkpoints_on_the_way_takes_longer(small_recipe: dict[str, Any]) -> None:
    recipe = recipe_with(small_recipe, {"method": "full", "max_steps": 9, "evaluate_every": 3})
    job = job_of(recipe, setup_of(recipe, [*map(len, EXAMPLES)]), EXAMPLES, [])
    assert job.saves == 2  # the third comes when training is over
    saved = times(job, Rates(1e9, saving=1e6)).saving
    assert saved == pytest.approx(2 * (job.counts.gradients + job.counts.optimizer) / 1e6)
    assert times(job, Rates(1e9, saving=2e6)).total < times(job, Rates(1e9, saving=1e6)).total


def test_a_folder_that_takes_no_checkpoint_is_no_reason_not_to_plan(tmp_path: Path) -> None:
    assert saving_speed(tmp_path) != SAVING
    assert (tmp_path / "checkpoint" / "content.pt").stat().st_size >= SAVED
    (tmp_path / "file").touch()
    assert saving_speed(tmp_path / "file") == SAVING
