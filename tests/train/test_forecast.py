from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from residency import models
from residency.prompts import Example
from residency.recipe import LoraSection, ModelSection, TrainSection
from residency.train.adapters import attach_lora
from residency.train.forecast import matrix_product_speed, summarise

EXAMPLES = [Example(tuple(range(40)), 10)] * 12


@pytest.fixture
def model(llama_folder: Path) -> Any:
    return models.load_base(ModelSection(base=str(llama_folder)))


def test_parameters_and_bytes_are_those_of_the_model(model: Any) -> None:
    found = summarise(model, EXAMPLES, TrainSection(method="full"), steps=3, tokens_per_batch=256)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert found.parameters == found.trainable == count
    assert found.weights == found.gradients == 4 * count
    assert found.optimizer == 8 * count
    assert found.tokens_per_step == 12 * 40


def test_lora_holds_fewer_gradients_and_does_less_work(model: Any) -> None:
    full = summarise(model, EXAMPLES, TrainSection(method="full"), steps=3, tokens_per_batch=256)
    adapted = attach_lora(model, LoraSection(rank=2))
    lora = summarise(adapted, EXAMPLES, TrainSection(method="lora"), steps=3, tokens_per_batch=256)
    assert lora.gradients < full.gradients / 4
    assert lora.flops_per_step < full.flops_per_step


def test_work_follows_the_rule_of_six(model: Any) -> None:
    # 6 operations a weight and token where every weight learns; the tied head counts at answer positions.
    found = summarise(model, EXAMPLES, TrainSection(method="full", examples_per_step=12), steps=1, tokens_per_batch=256)
    head = model.get_output_embeddings().weight.numel()
    body = found.parameters - head
    expected = 6 * 12 * (body * 40 + head * 30)
    assert expected < found.flops_per_step < 1.5 * expected


def test_a_matrix_product_has_a_speed() -> None:
    assert matrix_product_speed(torch.float32, torch.device("cpu"), size=128, seconds=0.05) > 1e8


def test_the_summary_is_a_table_with_units(model: Any) -> None:
    table = dict(summarise(model, EXAMPLES, TrainSection(method="full"), steps=3, tokens_per_batch=256).rows())
    assert table["steps"] == "3 of 480 tokens"
    assert table["weights"].endswith("MiB")
    assert table["work a step"].endswith("TFLOP")
