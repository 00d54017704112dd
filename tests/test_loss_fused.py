from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma2Config, Gemma2ForCausalLM

from families import CONFIGS, gradients, make
from residency import loss as losses
from residency.batches import collate
from residency.gradients import Scratch
from residency.loss import _HeadLoss, fused, summed_loss, token_losses
from residency.prompts import Example

EXAMPLES = [Example(tuple(range(5, 25)), 8), Example(tuple(range(40, 52)), 3), Example((9, 8, 7), 0)]


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1000, 5])
def test_loss_and_gradients_of_every_family_are_those_of_head_and_cross_entropy_apart(
    model: Any, smoothing: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "PIECE", 384 * rows)  # all positions at once, and five at a time
    monkeypatch.setattr(losses, "IN_CACHE", 384 * rows)
    batch = collate(EXAMPLES, 0)
    expected = token_losses(model, batch, smoothing)[0].sum()
    found = summed_loss(model, batch, smoothing)
    assert fused(model)
    assert torch.allclose(found, expected, rtol=1e-6)
    wanted, own = gradients(model, expected / 7), gradients(model, found / 7)
    assert wanted.keys() == own.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(own[name], gradient, rtol=1e-4, atol=1e-6), name


def test_logits_of_a_frozen_head_are_not_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(losses, "PIECE", 384 * 5)
    real = losses._into_gradient
    monkeypatch.setattr(losses, "_into_gradient", lambda z, *rest: shapes.append(tuple(z.shape)) or real(z, *rest))
    summed_loss(model, collate(EXAMPLES, 0)).backward()
    assert shapes == [(5, 384)] * 4 + [(3, 384)]


def test_few_logits_are_ever_there_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = make("llama"), list[tuple[int, ...]]()
    monkeypatch.setattr(losses, "IN_CACHE", 384 * 5)
    real = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda z, *a, **k: shapes.append(tuple(z.shape)) or real(z, *a, **k))
    summed_loss(model, collate(EXAMPLES, 0)).backward()
    assert shapes == [(5, 384)] * 4 + [(3, 384)]


def test_a_frozen_head_is_not_given_a_gradient() -> None:
    model = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    batch = collate(EXAMPLES, 0)
    wanted = gradients(model, token_losses(model, batch)[0].sum())
    own = gradients(model, summed_loss(model, batch))
    assert fused(model)
    assert {name.split(".")[-3] for name in own} == {"lora_A", "lora_B"}
    for name, gradient in wanted.items():
        assert torch.allclose(own[name], gradient, rtol=1e-4, atol=1e-6), name


def test_an_adapted_head_goes_the_plain_way() -> None:
    model = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    batch = collate(EXAMPLES, 0)
    assert not fused(model)
    assert torch.equal(summed_loss(model, batch), token_losses(model, batch)[0].sum())


def test_a_model_that_caps_its_logits_goes_the_plain_way() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Gemma2ForCausalLM(
        Gemma2Config(vocab_size=64, head_dim=8, intermediate_size=16, final_logit_softcapping=30.0, **sizes)
    )
    batch = collate(EXAMPLES, 0)
    assert fused(model)  # nobody has looked yet
    found = summed_loss(model, batch)
    assert not fused(model)
    assert torch.equal(found, token_losses(model, batch)[0].sum())


def test_in_bf16_the_loss_is_as_near_to_that_of_float32_as_the_plain_way_is() -> None:
    model, batch = make("llama"), collate(EXAMPLES, 0)
    exact = token_losses(model, batch)[0].sum()
    with torch.autocast("cpu", torch.bfloat16):
        plain, found = token_losses(model, batch)[0].sum(), summed_loss(model, batch)
    assert abs(found - exact) <= 2 * abs(plain - exact) + 1e-3 * exact
    wanted = gradients(model, exact)
    own = gradients(model, found)
    for name, gradient in wanted.items():
        assert torch.cosine_similarity(own[name].flatten(), gradient.flatten(), dim=0) > 0.99, name


def test_a_batch_that_teaches_nothing_has_no_loss_and_no_gradient(model: Any) -> None:
    loss = summed_loss(model, collate([Example((5, 6, 7), 3)], 0))
    assert loss == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients(model, loss).values())


def test_without_gradients_it_is_the_loss_alone() -> None:
    model, batch = make("llama"), collate(EXAMPLES, 0)
    with torch.no_grad():
        assert torch.allclose(summed_loss(model, batch), token_losses(model, batch)[0].sum(), rtol=1e-6)


def test_an_autocast_around_the_forward_pass_alone_decides_the_heads_format() -> None:
    """accelerate wraps a model's forward pass so, and makes its logits float32 afterwards."""
    model, batch = make("llama"), collate(EXAMPLES, 0)
    with torch.autocast("cpu", torch.bfloat16):
        expected = summed_loss(model, batch)
    plain = model.forward

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            output = plain(*args, **kwargs)
        output.logits = output.logits.float()
        return output

    model.forward = wrapped
    assert torch.equal(summed_loss(model, batch), expected)
    assert fused(model)


def test_a_target_too_far_away_for_its_probability_has_its_loss() -> None:
    logits, targets = torch.tensor([[150.0, -60.0, 0.0], [1.0, 2.0, 3.0]]), torch.tensor([1, 2])
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    found = _HeadLoss.apply(torch.eye(2), logits.T.contiguous(), None, targets, 0.0, False, Scratch())
    assert float(wanted) > 200
    assert torch.allclose(found, wanted)
