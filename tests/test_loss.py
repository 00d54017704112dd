from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from residency.batches import IGNORED, collate
from residency.loss import token_losses
from residency.prompts import Example
from residency.recipe import LoraSection
from residency.train.adapters import attach_lora

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


def test_adapters_get_the_gradients_of_full_logits(model: Any) -> None:
    torch.manual_seed(1)
    adapted = attach_lora(model, LoraSection(rank=2)).train()
    batch = collate(EXAMPLES, 0)
    token_losses(adapted, batch)[0].mean().backward()
    learning = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    gradients = {name: parameter.grad.clone() for name, parameter in learning.items()}
    adapted.zero_grad()
    adapted(**batch).loss.backward()
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
    for name, parameter in learning.items():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-5), name


def test_what_a_model_does_to_its_logits_after_the_head_still_happens() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=16,
        final_logit_softcapping=0.01,  # so low that without the cap the loss is another
    )
    model = Gemma2ForCausalLM(config).eval()
    batch = collate(EXAMPLES, 0)
    with torch.no_grad():
        assert torch.allclose(token_losses(model, batch)[0].mean(), model(**batch).loss, atol=1e-5)


def test_a_batch_that_teaches_nothing_has_no_losses(model: Any) -> None:
    losses, rows = token_losses(model, collate([Example((5, 6, 7), 3)], 0))
    assert losses.numel() == rows.numel() == 0
