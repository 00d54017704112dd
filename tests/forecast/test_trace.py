from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from residency import models
from residency.forecast.trace import Batch, Trace, trace, trace_by_depth
from residency.loss import summed_loss
from residency.recipe import LoraSection, ModelSection
from residency.train.adapters import attach_lora

CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=7, head_dim=8
)


def build(config: Any, attention: str = "eager") -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """A real batch of the same shape; the learnt positions stand at the end of the rows."""
    ids = torch.zeros(batch.rows, batch.width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    labels[:, batch.width - batch.learnt // batch.rows :] = 1
    mask = torch.ones_like(ids)
    mask[0, 0] = 0  # as in most batches there is padding: without any, SDPA would need no mask
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def saved_by_autograd(model: Any, batch: dict[str, torch.Tensor]) -> int:
    """Bytes of the storages that a real forward pass keeps for its backward pass, the weights left out."""
    kept = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}

    def see(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        loss = summed_loss(model, batch)
        assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["neox_folder", "llama_folder"])
def test_what_is_saved_is_what_autograd_saves(family: str, attention: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(family)
    batch = Batch(4, 48, 80)
    real = models.load_base(ModelSection(base=str(folder)), attention=attention).train()
    found = trace(build(AutoConfig.from_pretrained(folder), attention), batch)
    assert found.saved == pytest.approx(saved_by_autograd(real, tensors(batch)), rel=0.06)
    assert found.peak >= found.saved


def test_a_real_model_is_left_as_it_was(llama_folder: Path) -> None:
    model = attach_lora(models.load_base(ModelSection(base=str(llama_folder))), LoraSection(rank=2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = trace(model, Batch(2, 16, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert trace(model, Batch(2, 16, 8)) == first


def test_depth_is_extrapolated_exactly() -> None:
    batch = Batch(2, 24, 20)
    assert trace_by_depth(build, CONFIG, batch) == trace(build(CONFIG), batch)


def test_a_forward_pass_alone_holds_less_and_a_cache_holds_more() -> None:
    batch = Batch(2, 24, 2)
    training, passing, caching = (
        trace_by_depth(build, CONFIG, batch, backward=backward, cache=cache)
        for backward, cache in ((True, False), (False, False), (False, True))
    )
    assert passing.peak < training.peak
    keys = 2 * 4 * CONFIG.num_hidden_layers * batch.tokens * CONFIG.hidden_size
    assert keys <= caching.saved - passing.saved < 1.3 * keys


def test_half_precision_keeps_less() -> None:
    batch = Batch(4, 32, 32)
    half, single = (trace_by_depth(build, CONFIG, batch, autocast=autocast) for autocast in (True, False))
    assert half.saved < single.saved


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_work_follows_the_rule_of_six(attention: str) -> None:
    # 6 operations a weight and token: 2 forward, 4 backward; the head counts at learnt positions alone.
    batch = Batch(4, 8, 16)
    model = build(CONFIG, attention)
    head = model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.parameters() if p.ndim == 2) - 2 * head
    products = 12 * CONFIG.num_hidden_layers * CONFIG.hidden_size * batch.tokens * batch.width
    assert trace(model, batch).flops == pytest.approx(
        6 * (body * batch.tokens + head * batch.learnt) + products, rel=0.15
    )


@settings(deadline=None, max_examples=15)
@given(rows=st.integers(1, 4), width=st.integers(2, 24), more=st.integers(1, 8))
def test_more_rows_or_wider_rows_never_take_less(rows: int, width: int, more: int) -> None:
    small, longer, wider = (
        trace(SMALL, batch)
        for batch in (Batch(rows, width, rows), Batch(rows + more, width, rows), Batch(rows, width + more, rows))
    )
    for larger in (longer, wider):
        assert _bytes(larger) >= _bytes(small)
        assert larger.flops > small.flops


def _bytes(found: Trace) -> tuple[int, int]:
    return found.saved, found.peak


SMALL = build(LlamaConfig(**{**CONFIG.to_dict(), "num_hidden_layers": 1}))
