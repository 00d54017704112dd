"""Preference tuning by TRL with our batches, tokens and checkpoints, on the small chat model."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_checkpoints import Lives, written

from conftest import PEOPLE, TOPICS, StopsAt, write_jsonl
from residency import pipeline
from residency.errors import Interrupted, UserError
from residency.models import load_tokenizer
from residency.progress import Progress, Silent
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.train import checkpoints
from residency.train.fit import train
from residency.workspace import Run

pytest.importorskip("trl", reason="needs residency[preference]")


def pairs(count: int = 40) -> list[dict[str, Any]]:
    """Pairs of a kind that a small model can tell apart, of unequal lengths."""
    return [
        {
            "prompt": f"What should {PEOPLE[n % 6]} do about a {TOPICS[n % 10]} on day {n}?",
            "chosen": f"A {TOPICS[n % 10]} needs rest and water. " * (1 + n % 2) + f"See a doctor on day {n}.",
            "rejected": f"Who knows what {PEOPLE[n % 6]} has after {n} days. " * (1 + n % 3),
        }
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, llama_folder: Path) -> dict[str, Any]:
    source = write_jsonl(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs())
    return {
        "name": "pairs",
        "data": {"source": str(source), "validation": 0.2, "test": 0.2},
        "model": {"base": str(llama_folder), "max_length": 256},
        "train": {"objective": "dpo", "epochs": 2, "examples_per_step": 8, "learning_rate": 0.01, "precision": "fp32"},
        "evaluate": {"questions": 4, "max_new_tokens": 12, "resamples": 100, "off_topic": False},
    }


@pytest.fixture(scope="module")
def prepared(raw: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that is prepared and not trained; to be copied."""
    folder = tmp_path_factory.mktemp("prepared") / "run"
    pipeline.prepare(Recipe.parse(raw), folder)
    return folder


@pytest.fixture(scope="module")
def tuned(raw: dict[str, Any], prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose training has come to its end."""
    return trained(Recipe.parse(raw), prepared, tmp_path_factory.mktemp("tuned") / "run")


def recipe_of(raw: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe.parse({**raw, "train": {**raw["train"], **settings}})


def trained(
    recipe: Recipe, prepared: Path, folder: Path, progress: Progress | None = None, resume: bool = False
) -> Path:
    if not folder.exists():
        shutil.copytree(prepared, folder)
    pipeline.train(recipe, folder, progress, resume=resume)
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = Run.open(folder).read_json("train.json", "train")
    return found


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    clock = ("seconds", "step_seconds", "tokens_per_second")
    rows = Run.open(folder).read_jsonl("metrics.jsonl", "train")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def trainer_of(raw: dict[str, Any], prepared: Path, folder: Path, **settings: Any) -> Any:
    """The trainer of a run, before its first step."""
    from residency.train import objective
    from residency.train.setup import arguments, build_model, setup_of

    shutil.copytree(prepared, folder)
    recipe, run = recipe_of(raw, **settings), Run(folder)
    prompt = Prompt.build(recipe.prompt, load_tokenizer(recipe.model))
    setup = setup_of(recipe, [1] * len(run.dialogues("train")))
    return objective.objective_of(recipe, run, prompt, Silent()).trainer(
        model=build_model(recipe, setup, Silent()),
        args=arguments(recipe, run, setup, validated=True),
        validation=[],
        pad_id=prompt.tokenizer.pad_token_id or 0,
        tokens_per_batch=setup.tokens_per_batch,
    )


def nudged(trainer: Any) -> Any:
    """The trainer's model moved away from its reference."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return trainer.model


def plain_log_probability(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        said = model(input_ids=ids).logits.log_softmax(-1)
    return sum(said[0, place - 1, ids[0, place]] for place in range(len(prompt), ids.shape[1]))  # type: ignore[return-value]


@pytest.mark.parametrize("loss_type", ["sigmoid", "robust", "ipo", "hinge"])
def test_the_loss_of_a_known_pair_is_the_papers_formula(
    loss_type: str, raw: dict[str, Any], prepared: Path, tmp_path: Path
) -> None:
    dpo = {"beta": 0.3, "loss_type": loss_type, "label_smoothing": 0.1 if loss_type == "robust" else 0.0}
    trainer = trainer_of(raw, prepared, tmp_path / "run", method="full", dpo=dpo)
    pair = trainer.train_dataset[0]
    reference = [
        plain_log_probability(trainer.model, pair["prompt_ids"], pair[f"{a}_ids"]) for a in ("chosen", "rejected")
    ]
    model = nudged(trainer)
    now = [plain_log_probability(model, pair["prompt_ids"], pair[f"{a}_ids"]) for a in ("chosen", "rejected")]
    gained = [float(one - other) for one, other in zip(now, reference, strict=True)]
    z = torch.tensor(0.3 * (gained[0] - gained[1]))
    log_sigmoid = torch.nn.functional.logsigmoid
    per_token = gained[0] / len(pair["chosen_ids"]) - gained[1] / len(pair["rejected_ids"])
    expected = {
        "sigmoid": -log_sigmoid(z),  # Rafailov et al. 2023, equation 7
        "robust": (-0.9 * log_sigmoid(z) + 0.1 * log_sigmoid(-z)) / 0.8,  # Chowdhury et al. 2024, equation 12
        "ipo": torch.tensor((per_token - 1 / (2 * 0.3)) ** 2),  # Azar et al. 2023, equation 17, by the token
        "hinge": torch.relu(1 - z),
    }[loss_type]
    loss, _ = trainer._look(trainer.train_dataset.select([0]))
    assert abs(float(z)) > 0.01
    assert loss == pytest.approx(float(expected), rel=1e-4)


def test_a_step_does_not_depend_on_how_its_pairs_are_cut(raw: dict[str, Any], prepared: Path, tmp_path: Path) -> None:
    trainer = trainer_of(raw, prepared, tmp_path / "run", method="full")
    model = nudged(trainer)
    step = [trainer.train_dataset[n] for n in range(8)]
    found = {}
    for budget in (10_000, 150):
        trainer.collator.tokens_per_batch = budget
        trainer._metrics["train"].clear()  # as each log does
        model.zero_grad()
        loss = trainer.training_step(model, trainer.collator(step))
        gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
        found[budget] = (float(loss), gradient, trainer._metrics["train"]["rewards/margins"][-1])
    assert len(trainer.collator(step)["micro_batches"]) > 2
    (whole, gradient, margin), (cut, other, margin_cut) = found.values()
    assert cut == pytest.approx(whole, rel=1e-5)
    assert float((gradient - other).norm() / gradient.norm()) < 1e-5
    assert margin_cut == pytest.approx(margin, rel=1e-4)


def test_both_answers_bear_the_prompt_and_the_end_that_supervised_training_learns(
    raw: dict[str, Any], prepared: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(raw, prepared, tmp_path / "run")
    recipe, first = Recipe.parse(raw), Run.open(prepared).dialogues("train")[0]
    prompt = Prompt.build(recipe.prompt, load_tokenizer(recipe.model))
    pair = trainer.train_dataset[0]
    for column, answer in (("chosen_ids", first.answer), ("rejected_ids", first.rejected)):
        example = prompt.example(first.question, answer)
        assert tuple(pair["prompt_ids"] + pair[column]) == example.input_ids
        assert len(pair["prompt_ids"]) == example.learn_from
        assert pair[column][-1] == prompt.end_ids[-1]


def test_training_raises_the_margin_of_chosen_over_rejected(tuned: Path) -> None:
    preference = report_of(tuned)["preference"]
    assert (preference["beta"], preference["reference"]) == (0.1, "start")
    for split in ("validation", "test"):
        metrics = preference["held_out"][split]["metrics"]
        assert preference["held_out"][split]["pairs"] == 8
        assert metrics["reward_margin"]["before"]["mean"] == 0.0
        assert metrics["reward_margin"]["after"]["low"] > 0.1
        assert metrics["reward_accuracy"]["after"]["mean"] > 0.9
    rows = metrics_of(tuned)
    steps = [row for row in rows if "loss" in row]
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # nothing gained or lost yet: the logarithm of 2
    assert steps[-1]["reward_margin"] > steps[0]["reward_margin"] + 0.1
    validations = [row for row in rows if "validation_loss" in row]
    assert validations[-1]["validation_loss"] < 0.69
    assert {"validation_reward_margin", "validation_reward_accuracy"} <= set(validations[0])
    assert steps[-1]["answer_tokens"] < steps[-1]["total_tokens"] <= steps[-1]["passed_tokens"]


def test_the_run_folder_holds_the_model_as_plain_transformers_loads_it(tuned: Path) -> None:
    from transformers import AutoModelForCausalLM

    assert (tuned / "adapter" / "adapter_model.safetensors").is_file()
    assert not list((tuned / "adapter").glob("ref*"))
    assert not (tuned / "checkpoints").exists()
    assert report_of(tuned)["merge"]["largest"] < 1e-3
    assert AutoModelForCausalLM.from_pretrained(tuned / "model").config.model_type == "llama"
    assert report_of(tuned)["examples"] == 24


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_stopped_training_goes_on_to_the_same_bits(
    method: str, raw: dict[str, Any], prepared: Path, tuned: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(raw, method=method)
    whole = tuned if method == "lora" else trained(recipe, prepared, tmp_path / "whole")
    for step in (3, 6):  # a step after a checkpoint, in the first and in the second epoch
        folder = tmp_path / f"stopped-{step}"
        with pytest.raises(Interrupted, match="go on with `residency train RECIPE --resume"):
            trained(recipe, prepared, folder, StopsAt(step))
        assert checkpoints.newest(folder / "checkpoints")
        trained(recipe, prepared, folder, resume=True)
        one, other = (load_file(place / "model" / "model.safetensors") for place in (whole, folder))
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert metrics_of(folder) == metrics_of(whole)
        assert report_of(folder)["preference"] == report_of(whole)["preference"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forks of a warm process")
def test_a_training_killed_at_random_moments_ends_in_the_same_bits(
    raw: dict[str, Any], prepared: Path, tmp_path: Path
) -> None:
    recipe = written(raw, tmp_path, epochs=2, evaluate_every=2)
    lives, chance = Lives(), random.Random(4)
    try:
        whole = lives.live(recipe, Path(shutil.copytree(prepared, tmp_path / "whole")), compare=True)
        assert whole["code"] == 0, whole["errors"]
        folder = Path(shutil.copytree(prepared, tmp_path / "killed"))
        deaths = [
            lives.live(recipe, folder, "--resume", die=chance.randint(1, whole["moments"] // 2)) for _ in range(5)
        ]
        assert sum(life["status"] == -9 for life in deaths) >= 3
        again = lives.live(recipe, folder, "--resume", compare=True)
    finally:
        lives.close()
    assert again["ended"] == whole["ended"]


def test_a_resume_without_what_the_reference_said_is_refused(
    raw: dict[str, Any], prepared: Path, tmp_path: Path
) -> None:
    recipe, folder = Recipe.parse(raw), tmp_path / "run"
    with pytest.raises(Interrupted):
        trained(recipe, prepared, folder, StopsAt(4))
    (folder / "checkpoints" / "reference.safetensors").unlink()
    with pytest.raises(UserError, match=r"what the reference said of each pair.*train anew, without --resume"):
        trained(recipe, prepared, folder, resume=True)


def test_dpo_goes_on_from_an_earlier_training_and_is_held_to_it(
    raw: dict[str, Any], prepared: Path, tmp_path: Path
) -> None:
    earlier = trained(recipe_of(raw, objective="sft", max_steps=4), prepared, tmp_path / "sft")
    folder = tmp_path / "dpo"
    recipe = recipe_of(raw, continue_from=str(earlier), max_steps=4)
    with pytest.raises(Interrupted):
        trained(recipe, prepared, folder, StopsAt(2))
    trained(recipe, prepared, folder, resume=True)
    whole = report_of(trained(recipe, prepared, tmp_path / "whole"))
    found = report_of(folder)
    assert found["continued_from"]["kind"] == "adapter"
    assert found["preference"] == whole["preference"]  # held to the earlier model, after the resume too
    metrics = found["preference"]["held_out"]["test"]["metrics"]
    assert metrics["reward_margin"]["before"]["mean"] == 0.0
    assert metrics["reward_margin"]["after"]["mean"] > 0.0
    to_base = recipe_of(raw, continue_from=str(earlier), max_steps=1, dpo={"reference": "base"})
    metrics = report_of(trained(to_base, prepared, tmp_path / "base"))["preference"]["held_out"]["test"]["metrics"]
    assert abs(metrics["chosen_reward"]["before"]["mean"]) > 0.01  # the adapter has moved the model from its base


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "freeze", "freeze": {"train_last": 1}},
        {"method": "ia3", "learning_rate": 0.1},
        {"lora": {"variant": "dora"}, "optimizer": "muon", "neftune": 5, "average_last": 2},
    ],
    ids=["freeze", "ia3", "dora with muon, noise and a mean of checkpoints"],
)
def test_what_training_offers_holds_under_dpo(
    settings: dict[str, Any], raw: dict[str, Any], prepared: Path, tmp_path: Path
) -> None:
    found = report_of(trained(recipe_of(raw, max_steps=6, **settings), prepared, tmp_path / "run"))
    assert found["preference"]["held_out"]["test"]["metrics"]["reward_margin"]["after"]["mean"] > 0
    assert len(found["averaged"]) == (2 if "average_last" in settings else 0)


def test_a_tokenizer_without_padding_is_left_as_it_is(raw: dict[str, Any], neox_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe.parse(
        {**raw, "model": {"base": str(neox_folder), "max_length": 256}, "train": {**raw["train"], "max_steps": 2}}
    )
    pipeline.prepare(recipe, tmp_path / "run")
    prompt = Prompt.build(recipe.prompt, load_tokenizer(recipe.model))
    prompt.tokenizer.pad_token = None
    train(recipe, Run(tmp_path / "run"), prompt)
    assert prompt.tokenizer.pad_token is None


def test_the_checkpoint_may_be_chosen_by_answers(raw: dict[str, Any], prepared: Path, tmp_path: Path) -> None:
    folder = trained(recipe_of(raw, max_steps=2, best_by="chrf", best_questions=2), prepared, tmp_path / "run")
    validations = [row for row in metrics_of(folder) if "validation_loss" in row]
    assert {"validation_chrf", "validation_reward_margin"} <= set(validations[0])
    assert report_of(folder)["best_by"] == "chrf"


def test_the_report_shows_what_is_preferred_before_and_after(tuned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tuned, folder)
    page = pipeline.report(folder).read_text("utf-8")
    assert "Training moved the model towards the chosen answer in 100% of 8 held-out pairs" in page
    assert "LoRA, preferences by DPO" in page
    assert (folder / "figures" / "rewards.svg").is_file()
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert report["train"]["preference"]["held_out"]["test"]["pairs"] == 8
