from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments

from residency.batches import collate
from residency.packing import WIDE_PADDED
from residency.prompts import Example
from residency.recipe import LoraSection
from residency.train.adapters import attach_lora
from residency.train.trainer import ResidencyTrainer

EXAMPLES = [Example(tuple((7 * n + place) % 380 + 3 for place in range(6 + 5 * n)), 2 + n % 4) for n in range(8)]
LONG = [Example(tuple((11 * n + place) % 380 + 3 for place in range(WIDE_PADDED + 20 * n)), 9) for n in range(2)]


def trainer_of(model: Any, folder: Path, tokens_per_batch: int, examples: list[Example] = EXAMPLES) -> Any:
    return ResidencyTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", max_steps=1),
        train_dataset=examples,
        validation=examples,
        pad_id=0,
        tokens_per_batch=tokens_per_batch,
        packs=True,
    )


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def adapted(folder: Path) -> Any:
    """A model with adapters that already differ from nothing, so that every one of them has a gradient."""
    torch.manual_seed(1)
    model = attach_lora(load(folder), LoraSection(rank=2, targets=("all-linear",)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def reference_loss(model: Any, examples: list[Example]) -> torch.Tensor:
    """transformers' own cross-entropy over one plain batch with full logits."""
    batch = collate(examples, 0)
    loss: torch.Tensor = model(**batch).loss
    return loss


@pytest.mark.parametrize("folder", ["llama_folder", "neox_folder"])
def test_adapters_get_the_gradients_of_one_plain_batch_and_the_base_none(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(folder)
    plain = adapted(path)
    expected = reference_loss(plain, EXAMPLES)
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for tokens in (1, 64, 10_000):
        trainer = trainer_of(adapted(path), tmp_path, tokens)
        loss = trainer.training_step(trainer.model, trainer.data_collator(EXAMPLES))
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        for name, parameter in trainer.model.named_parameters():
            assert (parameter.grad is None) == (gradients[name] is None) == ("lora" not in name), name
            if parameter.grad is not None:
                assert torch.allclose(parameter.grad, gradients[name], atol=1e-5), name


def test_examples_on_both_sides_of_the_change_of_attention_give_the_loss_of_one_batch(
    llama_folder: Path, tmp_path: Path
) -> None:
    examples = EXAMPLES + LONG
    expected = reference_loss(load(llama_folder), examples).item()
    trainer = trainer_of(load(llama_folder), tmp_path, 500, examples)
    used = []
    trainer.model.get_input_embeddings().register_forward_hook(
        lambda *_: used.append(trainer.model.config._attn_implementation)
    )
    loss = trainer.training_step(trainer.model, trainer.data_collator(examples))
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert {"packed_modeling_llama", "packed_by_row"} <= set(used)


@pytest.mark.parametrize("tokens", [1, 64, 10_000])
def test_validation_is_the_plain_mean_over_all_answer_tokens(tokens: int, neox_folder: Path, tmp_path: Path) -> None:
    expected = reference_loss(load(neox_folder), EXAMPLES).item()
    metrics = trainer_of(load(neox_folder), tmp_path, tokens).evaluate()
    assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_counts_tell_answer_tokens_from_prompts_and_padding(llama_folder: Path, tmp_path: Path) -> None:
    trainer = trainer_of(load(llama_folder), tmp_path, 10_000)
    trainer.training_step(trainer.model, trainer.data_collator(EXAMPLES))
    counts = trainer.counts
    assert counts.answer_tokens == sum(example.learnt for example in EXAMPLES)
    assert counts.total_tokens == sum(len(example) for example in EXAMPLES)
    assert counts.passed_tokens == counts.total_tokens  # end to end, and nothing in common


def test_a_step_with_nothing_to_learn_has_no_loss_and_is_no_error(llama_folder: Path, tmp_path: Path) -> None:
    # What a cut at max_length can leave of a long prompt.
    trainer = trainer_of(load(llama_folder), tmp_path, 64)
    loss = trainer.training_step(trainer.model, trainer.data_collator([Example((5, 6, 7), 3)] * 2))
    assert loss.item() == 0.0
