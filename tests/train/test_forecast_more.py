from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from residency import models
from residency.prompts import Example
from residency.recipe import LoraSection, ModelSection, TrainSection
from residency.train.adapters import attach_lora
from residency.train.forecast import Summary, summarise

EXAMPLES = [Example(tuple(range(40)), 10)] * 12


def summary(model: Any, examples: list[Example] = EXAMPLES, **settings: Any) -> Summary:
    return summarise(model, examples, TrainSection(**settings), steps=3, tokens_per_batch=256)


@pytest.fixture
def neox(neox_folder: Path) -> Any:
    return models.load_base(ModelSection(base=str(neox_folder)))


def test_adapters_of_rank_r_learn_r_numbers_for_each_row_and_column(neox: Any) -> None:
    linear = [
        module
        for name, module in neox.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not neox.get_output_embeddings()
    ]
    before = sum(parameter.numel() for parameter in neox.parameters())
    found = summary(attach_lora(neox, LoraSection(rank=3)), method="lora")
    assert found.trainable == sum(3 * (module.in_features + module.out_features) for module in linear)
    assert found.parameters == before + found.trainable


def test_frozen_weights_in_bf16_take_two_bytes_each(neox_folder: Path) -> None:
    base = models.load_base(ModelSection(base=str(neox_folder)), torch.bfloat16)
    count = sum(parameter.numel() for parameter in base.parameters())
    found = summary(attach_lora(base, LoraSection(rank=2)), method="lora")
    assert found.weights == 2 * count + 4 * found.trainable  # adapters learn, so they stay in float32
    assert found.gradients == 4 * found.trainable


def test_adafactor_needs_far_less_state_than_adamw(neox: Any) -> None:
    adamw, adafactor = (summary(neox, method="full", optimizer=name) for name in ("adamw", "adafactor"))
    assert 0 < adafactor.optimizer < adamw.optimizer / 10


def test_an_untied_input_embedding_is_looked_up_and_costs_no_product(neox: Any) -> None:
    found = summary(neox, method="full", examples_per_step=12)
    head = neox.get_output_embeddings().weight.numel()
    body = found.parameters - 2 * head
    layers, width = neox.config.num_hidden_layers, neox.config.hidden_size
    attention = 12 * layers * width * 40 * 40
    assert found.flops_per_step == pytest.approx(12 * (6 * (body * 40 + head * 30) + attention))


def test_work_grows_with_the_examples_of_a_step_and_with_the_learnt_tokens(neox: Any) -> None:
    one, four = (summary(neox, method="full", examples_per_step=count) for count in (1, 4))
    assert four.flops_per_step == pytest.approx(4 * one.flops_per_step)
    little = summary(neox, [Example(tuple(range(40)), 39)] * 12, method="full", examples_per_step=1)
    assert little.flops_per_step < one.flops_per_step
    assert little.activations < one.activations


def test_a_step_never_has_more_examples_than_there_are(neox: Any) -> None:
    found = summary(neox, method="full", examples_per_step=64)
    assert found.tokens_per_step == 12 * 40
    assert found.flops_per_step == summary(neox, method="full", examples_per_step=12).flops_per_step


def test_the_summary_is_plain_json_and_its_memory_is_the_sum_of_the_parts(neox: Any) -> None:
    found = summary(neox, method="full")
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["memory"] == found.weights + found.gradients + found.optimizer + found.activations
    assert min(found.weights, found.gradients, found.optimizer, found.activations) > 0
