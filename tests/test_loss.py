from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from residency.batches import IGNORED, collate
from residency.loss import token_losses
from residency.prompts import Example

EXAMPLES = [Example(tuple(range(5, 25)), 8), Example(tuple(range(40, 52)), 3), Example((9, 8, 7), 0)]


@pytest.fixture(params=["llama_folder", "neox_folder"])
def model(request: pytest.FixtureRequest) -> Any:
    folder: Path = request.getfixturevalue(request.param)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_loss_and_gradients_are_those_of_full_logits(model: Any) -> None:
    batch = collate(EXAMPLES, 0)
    losses, rows = token_losses(model, batch)
    losses.mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    labels = batch["labels"]
    reference = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    reference.backward()
    assert torch.allclose(losses.mean(), reference, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-5), name
    assert rows.tolist() == [0] * 12 + [1] * 9 + [2] * 2


def test_the_head_sees_only_positions_that_carry_loss(model: Any) -> None:
    shapes = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    batch = collate(EXAMPLES, 0)
    token_losses(model, batch)
    hook.remove()
    learnt = int((batch["labels"][:, 1:] != IGNORED).sum())
    assert shapes == [(learnt, model.config.vocab_size)]


def test_the_head_is_itself_again_afterwards(model: Any) -> None:
    batch = collate(EXAMPLES, 0)
    token_losses(model, batch)
    assert model(input_ids=batch["input_ids"]).logits.shape == (*batch["input_ids"].shape, model.config.vocab_size)


def test_padding_changes_no_loss(model: Any) -> None:
    alone, _ = token_losses(model, collate(EXAMPLES[1:2], 0))
    together, rows = token_losses(model, collate(EXAMPLES, 3))
    assert torch.allclose(alone, together[rows == 1], atol=1e-5)
