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


def trainer_of(folder: Path, tmp_path: Path, smoothing: float = 0.0, **settings: Any) -> ResidencyTrainer:
    return ResidencyTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager"),
        args=TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=2, save_strategy="no",
            per_device_train_batch_size=8, logging_steps=1, disable_tqdm=True, **settings,
        ),
        train_dataset=EXAMPLES, validation=EXAMPLES[:4], pad_id=0, tokens_per_batch=64, smoothing=smoothing,
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["llama_folder", "neox_folder"])
def test_label_smoothing_is_torchs_own_over_the_answer_tokens_of_a_step(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(folder)
    trainer = trainer_of(path, tmp_path, smoothing=0.2)
    loss = trainer.training_step(trainer.model, trainer.data_collator(EXAMPLES))
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    whole = collate(EXAMPLES, 0)
    logits = model(input_ids=whole["input_ids"], attention_mask=whole["attention_mask"]).logits
    reference = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), whole["labels"][:, 1:].flatten(), ignore_index=-100, label_smoothing=0.2
    )
    reference.backward()
    assert float(loss) == pytest.approx(reference.item(), abs=1e-5)
    for (name, parameter), own in zip(model.named_parameters(), trainer.model.parameters(), strict=True):
        assert torch.allclose(own.grad, parameter.grad, atol=1e-5), name


def test_validation_is_without_smoothing_and_without_noise(llama_folder: Path, tmp_path: Path) -> None:
    plain, changed = trainer_of(llama_folder, tmp_path), trainer_of(llama_folder, tmp_path, 0.3, neftune_noise_alpha=20)
    seen: list[float] = []
    real = changed.training_step

    def between(*given: Any) -> torch.Tensor:
        # Inside a training with noise, as the validations of a run are.
        changed.model.load_state_dict(plain.model.state_dict())
        seen.append(changed.evaluate()["eval_loss"])
        return real(*given)

    changed.training_step = between  # type: ignore[method-assign]
    changed.train()
    assert seen == [plain.evaluate()["eval_loss"]] * 2


def test_noise_reaches_training_and_ends_with_it(llama_folder: Path, tmp_path: Path) -> None:
    first = {alpha: trainer_of(llama_folder, tmp_path, neftune_noise_alpha=alpha) for alpha in (None, 20, 5)}
    losses = {}
    for alpha, trainer in first.items():
        torch.manual_seed(0)
        trainer.train()
        losses[alpha] = trainer.state.log_history[0]["loss"]
    assert len(set(losses.values())) == 3
    embeddings = first[20].model.get_input_embeddings()
    ids = torch.arange(6)[None]
    assert torch.equal(embeddings.train()(ids), embeddings.weight[:6][None])
