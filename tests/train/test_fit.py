from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import StopsAt
from residency import pipeline
from residency.errors import Interrupted
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.train.trainer import ResidencyTrainer
from residency.workspace import Run


def trained(raw: dict[str, Any], folder: Path, **settings: Any) -> Run:
    """The small chat model, prepared and trained under changed settings."""
    recipe = Recipe.parse({**raw, "train": {**raw["train"], "precision": "fp32", **settings}})
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder)
    return Run.open(folder)


def rows(run: Run, key: str) -> list[Any]:
    return [row[key] for row in run.read_jsonl("metrics.jsonl", "train") if key in row]


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_training_lowers_the_loss(method: str, optimizer: str, small_recipe: dict[str, Any], tmp_path: Path) -> None:
    run = trained(small_recipe, tmp_path, method=method, optimizer=optimizer, epochs=3)
    losses = rows(run, "loss")
    assert losses[-1] < losses[0] - 0.1
    assert len(losses) == 3 * math.ceil(run.read_json("train.json", "train")["examples"] / 8)


@pytest.mark.parametrize(
    ("schedule", "course"),
    [
        ("constant", lambda share: 1.0),
        ("linear", lambda share: 1 - share),
        ("cosine", lambda share: 0.5 * (1 + math.cos(math.pi * share))),
    ],
)
def test_the_learning_rate_warms_up_and_follows_its_schedule(
    schedule: str, course: Any, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    run = trained(small_recipe, tmp_path, schedule=schedule, warmup=3, max_steps=12)
    expected = [0.01 * step / 3 for step in range(3)] + [0.01 * course(step / 9) for step in range(9)]
    assert rows(run, "learning_rate") == pytest.approx(expected, abs=1e-9)


def test_the_model_reloads_with_plain_transformers_and_agrees_with_its_adapter(
    small_recipe: dict[str, Any], llama_folder: Path, tmp_path: Path
) -> None:
    run = trained(small_recipe, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(run.folder / "model")
    assert AutoTokenizer.from_pretrained(run.folder / "model").chat_template
    base = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(run.folder / "adapter"))
    ids = torch.arange(30).reshape(2, 15)
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)
    assert merged.generation_config.eos_token_id == [2]
    assert not (run.folder / "checkpoints").exists()


def test_the_checkpoint_with_the_best_validation_loss_is_kept(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    # The rate climbs until the model gets worse again: the last checkpoint is not the best.
    run = trained(small_recipe, tmp_path, method="full", learning_rate=1.0, warmup=24, epochs=4, evaluate_every=1)
    validations = rows(run, "validation_loss")
    report = run.read_json("train.json", "train")
    assert min(validations) < validations[-1]
    assert report["best_validation_loss"] == min(validations)
    tokenizer = AutoTokenizer.from_pretrained(run.folder / "model")
    prompt = Prompt.build(run.recipe.prompt, tokenizer)
    summed, count = 0.0, 0
    model = AutoModelForCausalLM.from_pretrained(run.folder / "model", dtype=torch.float32)
    for dialogue in run.dialogues("validation"):
        example = prompt.example(dialogue.question, dialogue.answer)
        ids = torch.tensor([example.input_ids])
        labels = ids.clone()
        labels[:, : example.learn_from] = -100
        with torch.no_grad():
            summed += float(model(ids, labels=labels).loss) * example.learnt
        count += example.learnt
    assert summed / count == pytest.approx(min(validations), abs=1e-4)


def test_early_stopping_ends_a_run_that_no_longer_gets_better(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    run = trained(
        small_recipe, tmp_path, method="full", learning_rate=0.3, epochs=8, evaluate_every=2, patience=2,
        schedule="constant",
    )  # fmt: skip
    report = run.read_json("train.json", "train")
    assert report["stopped_early"]
    assert report["steps"] < report["summary"]["steps"]
    best = rows(run, "validation_loss").index(min(rows(run, "validation_loss")))
    assert len(rows(run, "validation_loss")) == best + 3


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_resumed_in_a_later_epoch_ends_in_the_same_bits(
    method: str, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    # 6 steps an epoch; checkpoints every 4; stopped at 10, so it goes on from step 8, two steps into the second epoch.
    small_recipe["train"] |= {"method": method, "epochs": 3, "evaluate_every": 4, "precision": "fp32"}
    small_recipe["train"]["lora"] = {"rank": 4, "dropout": 0.1}
    recipe = Recipe.parse(small_recipe)
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    for folder in folders:
        pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folders[0])
    with pytest.raises(Interrupted, match="step 10"):
        pipeline.train(recipe, folders[1], StopsAt(10))
    pipeline.train(recipe, folders[1], resume=True)
    whole, resumed = (Run.open(folder) for folder in folders)
    assert rows(whole, "loss") == rows(resumed, "loss")
    assert rows(whole, "validation_loss") == rows(resumed, "validation_loss")
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((folders[1] / "train.json").read_text())["steps"] == 18


def test_only_answer_tokens_carry_loss(
    small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    real = ResidencyTrainer.training_step

    def spy(self: Any, model: Any, inputs: dict[str, Any], count: Any = None) -> torch.Tensor:
        seen.extend(inputs["micro_batches"])
        return real(self, model, inputs, count)

    monkeypatch.setattr(ResidencyTrainer, "training_step", spy)
    run = trained(small_recipe, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(run.folder / "model")
    learnt = [tokenizer.decode(labels[labels != -100]) for batch in seen for labels in batch["labels"]]
    answers = sorted(f"{dialogue.answer}<|im_end|>" for dialogue in run.dialogues("train"))
    assert sorted(learnt) == answers


def test_the_numbers_of_a_training_are_written(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    run = trained(small_recipe, tmp_path)
    report = run.read_json("train.json", "train")
    last = run.read_jsonl("metrics.jsonl", "train")[-1]
    assert report["total_tokens"] == last["total_tokens"] > report["answer_tokens"] > 0
    assert 0.5 < report["passed_share"] < 1.2
    assert report["peak_memory_bytes"] > 1e8
    assert 0 < report["mfu"] < 1.5
    assert report["summary"]["trainable"] < report["summary"]["parameters"]
