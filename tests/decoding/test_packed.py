from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from residency import environment
from residency.decoding.packed import computes_bf16, packed

pytestmark = pytest.mark.skipif(not computes_bf16(), reason="oneDNN has no bf16 on this processor")


@pytest.fixture(scope="module")
def model(neox_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(neox_folder, dtype=torch.bfloat16).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(24)[None]).logits.float()  # type: ignore[no-any-return]


def test_packed_weights_give_the_same_logits_but_for_rounding_and_are_gone_afterwards(model: Any) -> None:
    before = logits(model)
    with packed(model) as count:
        inside = logits(model)
    assert count == 2 * 4 + 1  # with biases and without
    assert torch.allclose(before, inside, atol=0.02 * float(before.std()))
    assert torch.equal(before, logits(model))
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_what_training_has_changed_since_is_packed_anew(model: Any) -> None:
    with packed(model):
        before = logits(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    with packed(model):
        after = logits(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.div_(2)
    assert torch.allclose(after, 2 * before)


def test_weights_are_not_doubled_where_memory_is_short(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "available_memory", lambda: 1000)
    with packed(model) as count:
        assert count == 0


def test_float32_is_left_as_it_is(neox_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(neox_folder, dtype=torch.float32)
    with packed(model) as count:
        assert count == 0
