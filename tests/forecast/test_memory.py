from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Adafactor

from residency import models
from residency.forecast.memory import Answering, Counts, Memory, count, forecast, logits_bytes, optimizer_bytes
from residency.forecast.trace import Batch, Trace
from residency.recipe import LoraSection, ModelSection
from residency.train.adapters import attach_lora

COUNTS = Counts(
    parameters=1000, trainable=1000, base=1000, weights=4000, gradients=4000, optimizer=8000, temporary=0,
    vocabulary=10, precision="fp32", merged=False, file=4000,
)  # fmt: skip
BATCH, TRACED = Batch(2, 8, 4), Trace(5000, 6000, 100)


def total(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def memory(training: Trace = TRACED, answering: Answering | None = None, **options: Any) -> Memory:
    return forecast(COUNTS, (BATCH, training), Trace(0, 2000, 0), answering, **options)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_the_optimizer_state_is_counted_to_the_byte(name: str, llama_folder: Path) -> None:
    model = models.load_base(ModelSection(base=str(llama_folder)))
    made = torch.optim.AdamW if name == "adamw" else Adafactor
    optimizer = made(model.parameters(), **({} if name == "adamw" else {"relative_step": False, "lr": 1e-3}))
    model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    held = total(t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor))
    scalars = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t) and not t.ndim)
    found = count(model, name, base=0, precision="fp32").optimizer
    assert abs(found - held) <= scalars  # a learning rate or a step number a tensor
    assert found > 0


def test_weights_and_gradients_are_counted_to_the_byte(neox_folder: Path) -> None:
    model = attach_lora(models.load_base(ModelSection(base=str(neox_folder)), torch.bfloat16), LoraSection(rank=2))
    base = sum(p.numel() for name, p in model.named_parameters() if "lora" not in name)
    model.train()(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    found = count(model, "adamw", base=base, precision="bf16")
    assert found.weights == total(model.parameters())
    assert found.gradients == total(p.grad for p in model.parameters() if p.grad is not None)
    assert found.parameters - found.base == found.trainable
    assert found.merged


def test_eight_bit_and_muon_states_lie_between_nothing_and_adamw() -> None:
    shapes = [(256, 512), (512,)]
    adamw, eight, muon, adafactor = (
        optimizer_bytes(name, shapes) for name in ("adamw", "adamw-8bit", "muon", "adafactor")
    )
    assert 0 < adafactor < eight < muon < adamw
    assert optimizer_bytes("adamw-8bit", [(512,)]) == optimizer_bytes(
        "adamw", [(512,)]
    )  # small tensors stay in float32


def test_the_parts_of_a_step_add_up_to_its_phase() -> None:
    found = memory()
    parts = found.weights + found.gradients + found.optimizer + found.activations + found.logits + found.overhead
    assert parts == found.phases["training step"].held


def test_the_peak_is_that_of_the_largest_phase_and_file_pages_need_not_fit() -> None:
    found = memory(answering=Answering(10**9, 0, 0))
    assert found.peak == max(phase.held + phase.mapped for phase in found.phases.values())
    assert found.answers_needed == found.phases["answers"].held > found.training_peak >= found.needed
    assert found.phases["save"].mapped > 0


def test_a_gpu_maps_no_files_and_holds_its_context() -> None:
    found = memory(device="cuda")
    assert all(phase.mapped == 0 for phase in found.phases.values())
    assert found.overhead > 2**28


def test_logits_are_counted_in_both_formats() -> None:
    assert logits_bytes(10, 100, "fp32") == 10 * 100 * 8
    assert logits_bytes(10, 100, "bf16") == 10 * 100 * 10


@settings(deadline=None, max_examples=40)
@given(peak=st.integers(0, 10**9), more=st.integers(0, 10**9), spread=st.floats(1, 3), wider=st.floats(0, 2))
def test_more_alive_or_more_fragments_never_take_less(peak: int, more: int, spread: float, wider: float) -> None:
    small = memory(Trace(peak, peak, 0), fragments=spread)
    assert memory(Trace(peak, peak + more, 0), fragments=spread).peak >= small.peak
    assert memory(Trace(peak, peak, 0), fragments=spread + wider).needed >= small.needed
