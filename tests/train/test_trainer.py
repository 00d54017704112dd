from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, TrainingArguments

from residency.batches import collate
from residency.prompts import Example
from residency.train.steps import StepCollator
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
        packs=True,
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


examples = st.lists(
    st.integers(4, 40).flatmap(
        lambda length: st.builds(
            Example,
            st.lists(st.integers(3, 379), min_size=length, max_size=length).map(tuple),
            st.integers(1, length - 1),
        )
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def learners(llama_folder: Path, neox_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A trainer for each architecture, in float32."""
    return {
        path.name: ResidencyTrainer(
            model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager"),
            args=TrainingArguments(output_dir=str(tmp_path_factory.mktemp("out")), use_cpu=True, report_to="none"),
            train_dataset=EXAMPLES,
            validation=[],
            pad_id=0,
            tokens_per_batch=64,
        )
        for path in (llama_folder, neox_folder)
    }


def gradient(trainer: Any, found: list[Example], tokens_per_batch: int, pad_id: int) -> tuple[float, torch.Tensor]:
    """Loss of a step over these examples, and its whole gradient as one vector [parameters]."""
    trainer.model.zero_grad()
    loss = trainer.training_step(trainer.model, StepCollator(pad_id, tokens_per_batch)(found))
    return float(loss), torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()]).double()


@pytest.mark.parametrize("name", ["llama-tiny", "pythia-tiny"])
@settings(deadline=None, max_examples=20)
@given(examples, st.integers(1, 400), st.integers(0, 379), st.randoms(use_true_random=False))
def test_a_steps_gradient_depends_neither_on_the_cut_nor_on_padding_nor_on_order(
    name: str, learners: dict[str, Any], found: list[Example], tokens: int, pad_id: int, random: Any
) -> None:
    loss, expected = gradient(learners[name], found, 1, 0)  # each example alone: nothing is padded
    shuffled = random.sample(found, len(found))
    other_loss, other = gradient(learners[name], shuffled, tokens, pad_id)
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert torch.linalg.norm(other - expected) / torch.linalg.norm(expected) < 1e-5


@pytest.mark.parametrize("name", ["llama-tiny", "pythia-tiny"])
@settings(deadline=None, max_examples=20)
@given(examples)
def test_a_step_of_one_example_is_plain_transformers_loss_on_its_answer(
    name: str, learners: dict[str, Any], found: list[Example]
) -> None:
    one = found[0]
    loss, own = gradient(learners[name], [one], 64, 0)
    model = learners[name].model
    model.zero_grad()
    ids = torch.tensor([one.input_ids])
    labels = ids.clone()
    labels[:, : one.learn_from] = -100
    expected = model(input_ids=ids, labels=labels).loss
    expected.backward()
    plain = torch.cat([weight.grad.flatten() for weight in model.parameters()]).double()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert torch.linalg.norm(own - plain) / torch.linalg.norm(plain) < 1e-5


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
