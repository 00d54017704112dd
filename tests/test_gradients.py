from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from families import CONFIGS, make
from residency import gradients
from residency.batches import collate
from residency.gradients import Scratch, added_in_place
from residency.loss import summed_loss
from residency.prompts import Example

STEP = [
    collate([Example((5, 6, 7, 5, 9, 0, 3), 2), Example((5, 5, 6), 1)], 0),
    collate([Example((1, 5, 0, 44, 9), 2)], 0),
]


def learnt(model: Any, *, in_place: bool, autocast: bool = False) -> dict[str, torch.Tensor]:
    """The gradients that the micro-batches of a step leave together."""
    for batch in STEP:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if in_place:
                with added_in_place(model):
                    (summed_loss(model, batch) / 7).backward()
            else:
                (summed_loss(model, batch) / 7).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_gets_the_gradients_that_autograd_gives(family: str) -> None:
    model = make(family)
    wanted, found = learnt(model, in_place=False), learnt(model, in_place=True)
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("at_once", [2**21, 1000])  # the head whole, and in pieces of which the last is smaller
def test_so_it_does_in_bf16(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(gradients, "IN_CACHE", at_once)
    model = make("llama, tied")
    wanted, found = (learnt(model, in_place=own, autocast=True) for own in (False, True))
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=0.02, atol=1e-4), name


def test_no_gradient_is_left_at_the_padding_token_of_the_embeddings() -> None:
    model = make("llama")
    model.get_input_embeddings().padding_idx = 5
    wanted, found = learnt(model, in_place=False), learnt(model, in_place=True)
    table = next(name for name in wanted if "embed" in name)
    assert not found[table][5].any()
    assert torch.allclose(found[table], wanted[table], rtol=1e-5, atol=1e-7)


def test_autograd_makes_no_gradient_of_a_table_itself() -> None:
    model, made = make("llama, tied"), []
    weight = model.get_input_embeddings().weight
    weight.grad = torch.zeros_like(weight)
    place = weight.grad.data_ptr()
    with added_in_place(model):
        loss = summed_loss(model, STEP[0])
        accumulates = [node for node, _ in _nodes(loss.grad_fn) if getattr(node, "variable", None) is weight]
        for node in accumulates:
            node.register_hook(lambda _, given: made.extend(one for one in given if one is not None))
        loss.backward()
    assert accumulates
    assert not made
    assert weight.grad.data_ptr() == place
    assert weight.grad.any()


def _nodes(node: Any) -> Any:
    seen, todo = set(), [node]
    while todo:
        found = todo.pop()
        if found is not None and found not in seen:
            seen.add(found)
            yield found, None
            todo += [one for one, _ in found.next_functions]


def test_frozen_watched_and_unusual_tables_are_left_to_autograd() -> None:
    adapted = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    wanted, found = learnt(adapted, in_place=False), learnt(adapted, in_place=True)
    assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items())
    assert all("lora" in name for name in found)
    watched, seen = make("llama"), []
    watched.get_input_embeddings().weight.register_hook(seen.append)
    learnt(watched, in_place=True)
    assert len(seen) == len(STEP)
    unusual = make("llama")
    unusual.get_input_embeddings().scale_grad_by_freq = True
    wanted, found = learnt(unusual, in_place=False), learnt(unusual, in_place=True)
    assert all(torch.allclose(found[name], gradient, atol=1e-7) for name, gradient in wanted.items())


def test_the_model_is_itself_again_outside() -> None:
    model = make("llama")
    with pytest.raises(ZeroDivisionError), added_in_place(model):
        raise ZeroDivisionError
    assert "forward" not in vars(model.get_input_embeddings())
    assert not hasattr(model.get_output_embeddings(), "_in_place")


def test_the_head_works_in_the_memory_of_the_micro_batch_before_it() -> None:
    model, scratch = make("llama, tied"), Scratch()
    found: list[dict[str, torch.Tensor]] = []
    for kept in (None, scratch):
        for batch in STEP:
            with torch.autocast("cpu", torch.bfloat16), added_in_place(model, kept):
                (summed_loss(model, batch) / 7).backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
        model.zero_grad()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert {name: held.numel() for name, held in scratch.held.items()} == {"weight": 384 * 32, "logits": 7 * 384}
    assert not hasattr(model.get_output_embeddings(), "_scratch")


def test_scratch_memory_is_taken_again_and_grows_and_is_given_back() -> None:
    scratch, like = Scratch(), torch.zeros(1)
    first = scratch.take("a", (4, 6), like)
    assert scratch.take("a", (3, 8), like).data_ptr() == first.data_ptr()
    assert scratch.take("a", (2, 5), like).shape == (2, 5)
    assert scratch.take("a", (5, 6), like).shape == (5, 6)
    assert scratch.take("b", (1, 1), like.bfloat16()).dtype == torch.bfloat16
    assert scratch.take("b", (1, 1), like).dtype == torch.float32
    assert {name: held.numel() for name, held in scratch.held.items()} == {"a": 30, "b": 1}
    scratch.release()
    assert not scratch.held


def test_logits_that_a_second_pass_has_written_over_are_not_learnt_from() -> None:
    model = make("llama")
    with added_in_place(model, Scratch()):
        first = summed_loss(model, STEP[0])
        summed_loss(model, STEP[1])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            first.backward()
