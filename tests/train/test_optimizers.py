from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainingArguments

from conftest import StopsAt
from residency import pipeline
from residency.errors import Interrupted, UserError
from residency.prompts import Example
from residency.recipe import Recipe
from residency.sections import Ia3Section, LoraSection, PromptTuningSection
from residency.train import adapters
from residency.train.optimizers import NAMES, muon
from residency.train.trainer import ResidencyTrainer

EXAMPLES = [Example(tuple((7 * n + place) % 380 + 3 for place in range(6)), 2) for n in range(4)]


def model_of(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def trainer_of(model: Any, folder: Path, optimizer: str = "adamw", **settings: Any) -> ResidencyTrainer:
    return ResidencyTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder), use_cpu=True, report_to="none", max_steps=2, optim=NAMES[optimizer],
            weight_decay=0.1, per_device_train_batch_size=4, save_strategy="no", disable_tqdm=True, **settings,
        ),
        train_dataset=EXAMPLES, validation=[], pad_id=0, tokens_per_batch=64, muon=optimizer == "muon",
    )  # fmt: skip


def decays(trainer: ResidencyTrainer) -> dict[str, float]:
    """The weight decay of each learning parameter."""
    groups = trainer.create_optimizer().param_groups
    found = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    named = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert len(found) == len(named) == sum(len(group["params"]) for group in groups)  # each in one group
    return {name: found[id(parameter)] for name, parameter in named}


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
@pytest.mark.parametrize("folder", ["llama_folder", "neox_folder"])
def test_weight_decay_is_for_matrices_and_not_for_norms_and_biases(
    folder: str, optimizer: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found = decays(trainer_of(model_of(request.getfixturevalue(folder)), tmp_path, optimizer))
    spared = {name for name, decay in found.items() if decay == 0}
    assert spared == {name for name in found if "norm" in name or name.endswith("bias")}
    assert {found[name] for name in found.keys() - spared} == {0.1}
    assert any("embed" in name for name in found.keys() - spared)  # as transformers and nanoGPT do


def test_factors_and_magnitudes_of_adapters_are_not_worn_down(llama_folder: Path, tmp_path: Path) -> None:
    dora = adapters.attach_lora(model_of(llama_folder), LoraSection(variant="dora", rank=2))
    found = decays(trainer_of(dora, tmp_path))
    assert {decay for name, decay in found.items() if "magnitude" in name} == {0.0}
    assert {decay for name, decay in found.items() if "lora_A" in name or "lora_B" in name} == {0.1}
    factors = adapters.attach_ia3(model_of(llama_folder), Ia3Section())
    assert set(decays(trainer_of(factors, tmp_path)).values()) == {0.0}


def by_muon(model: Any) -> set[str]:
    optimizer = muon(model, (), 1e-3, 0.0)
    hidden = {id(p) for group in optimizer.param_groups if group["hidden"] for p in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in hidden}


@pytest.mark.parametrize("folder", ["llama_folder", "neox_folder"])
def test_muon_takes_the_hidden_matrices_alone(folder: str, request: pytest.FixtureRequest) -> None:
    model = model_of(request.getfixturevalue(folder))
    inside = {name for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2}
    assert by_muon(model) == inside


def test_muon_takes_low_rank_matrices_but_no_embeddings_before_the_prompt(llama_folder: Path) -> None:
    lora = adapters.attach_lora(model_of(llama_folder), LoraSection(rank=2))
    assert by_muon(lora) == {name for name, p in lora.named_parameters() if p.requires_grad}
    assert by_muon(adapters.attach_prompt(model_of(llama_folder), PromptTuningSection(virtual_tokens=3))) == set()


def test_a_step_of_muon_is_torchs_own_muon_and_torchs_own_adamw(llama_folder: Path) -> None:
    model, other = model_of(llama_folder), model_of(llama_folder)
    ours = muon(model, [name for name, p in model.named_parameters() if p.ndim == 2], 1e-2, 0.1)
    matrices = [p for name, p in other.named_parameters() if ".layers." in name and p.ndim == 2]
    norms = [p for name, p in other.named_parameters() if p.ndim == 1]
    theirs = [
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([other.get_input_embeddings().weight], lr=1e-2, weight_decay=0.1),
        torch.optim.AdamW(norms, lr=1e-2, weight_decay=0.0),
    ]
    ids = torch.arange(12).reshape(2, 6)
    for _ in range(3):
        for one, optimizers in ((model, [ours]), (other, theirs)):
            one.zero_grad()
            one(ids, labels=ids).loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(mine, reference) for mine, reference in pairs)


@pytest.mark.parametrize("optimizer", ["muon", "adamw-8bit"])
def test_a_run_goes_on_with_its_optimizers_state_to_the_same_bits(
    optimizer: str, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    if optimizer == "adamw-8bit":
        pytest.importorskip("bitsandbytes")
    small_recipe["train"] |= {
        "method": "full", "optimizer": optimizer, "max_steps": 10, "evaluate_every": 4, "precision": "fp32",
        "weight_decay": 0.1, "schedule": "warmup-stable-decay", "neftune": 5, "label_smoothing": 0.1,
    }  # fmt: skip
    recipe, folders = Recipe.parse(small_recipe), [tmp_path / "whole", tmp_path / "stopped"]
    for folder in folders:
        pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folders[0])
    with pytest.raises(Interrupted, match="step 6"):
        pipeline.train(recipe, folders[1], StopsAt(6))
    pipeline.train(recipe, folders[1], resume=True)
    curves = [
        [row["loss"] for row in map(json.loads, (folder / "metrics.jsonl").open()) if "loss" in row]
        for folder in folders
    ]
    assert curves[0] == curves[1]
    assert curves[0][-1] < curves[0][0] - 0.1
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"optimizer": "adamw-8bit"}, "train.optimizer adamw-8bit"), ({"method": "qlora"}, "train.method qlora")],
)
@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_bitsandbytes_that_is_not_there_or_does_not_compute_is_told_in_one_line(
    settings: dict[str, str],
    field: str,
    fault: str,
    small_recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "path").mkdir()
    if fault == "broken":
        (tmp_path / "path" / "bitsandbytes.py").write_text("raise RuntimeError('no kernel\\nfor this device')")
        monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.delitem(__import__("sys").modules, "bitsandbytes", raising=False)
    if fault == "missing":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    small_recipe["train"] |= settings
    recipe = Recipe.parse(small_recipe)
    pipeline.prepare(recipe, tmp_path / "run")
    said = {"missing": "is not installed; `pip install", "broken": r"can't compute on this machine's \w+ \(no kernel\)"}
    with pytest.raises(UserError, match=f"{field}: bitsandbytes {said[fault]}"):
        pipeline.train(recipe, tmp_path / "run")
