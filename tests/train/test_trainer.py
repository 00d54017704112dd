from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments

from residency.batches import collate
from residency.prompts import Example
from residency.train.trainer import ResidencyTrainer

EXAMPLES = [Example(tuple((7 * n + place) % 380 + 3 for place in range(6 + 5 * n)), 2 + n % 4) for n in range(8)]


def step(folder: Path, tokens_per_batch: int, tmp_path: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one optimizer step in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    trainer = ResidencyTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=1),
        train_dataset=EXAMPLES,
        validation=[],
        pad_id=0,
        tokens_per_batch=tokens_per_batch,
    )
    loss = trainer.training_step(trainer.model, trainer.data_collator(EXAMPLES))
    return float(loss), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("folder", ["llama_folder", "neox_folder"])
def test_a_step_is_the_same_however_it_is_cut(folder: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    whole = collate(EXAMPLES, 0)
    reference = model(input_ids=whole["input_ids"], attention_mask=whole["attention_mask"], labels=whole["labels"]).loss
    reference.backward()
    for tokens in (1, 64, 10_000):
        loss, gradients = step(path, tokens, tmp_path)
        assert loss == pytest.approx(reference.item(), abs=1e-5)
        for name, parameter in model.named_parameters():
            assert torch.allclose(gradients[name], parameter.grad, atol=1e-5), name
