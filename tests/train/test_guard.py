from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerControl, TrainerState, TrainingArguments
from typer.testing import CliRunner

from residency import models, pipeline
from residency.cli import app
from residency.errors import UserError
from residency.progress import Silent
from residency.prompts import Example, Prompt
from residency.recipe import Recipe
from residency.sections import LoraSection
from residency.train import fit
from residency.train.adapters import attach_lora
from residency.train.guard import DEAD_AFTER, Guard, dead_adapters, last_good
from residency.train.trainer import Counts, Recorder, ResidencyTrainer
from residency.train.watch import ADVICE, FATAL, Curves, Finding
from residency.workspace import Run

WILD = {"method": "full", "learning_rate": 1.0, "epochs": 6, "schedule": "constant", "precision": "fp32"}


class Hears(Silent):
    """What was said, and at which step of training."""

    def __init__(self) -> None:
        self.said: list[tuple[int, str]] = []
        self.at = 0

    def say(self, text: str) -> None:
        self.said.append((self.at, text))

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        self.at = done if task == "Training" else self.at

    @property
    def kinds(self) -> list[str]:
        return [kind for _, text in self.said for kind in ADVICE if text.startswith(f"{kind} at step")]


def trained(raw: dict[str, Any], folder: Path, validation: float = 0.1, **settings: Any) -> tuple[Run, Hears]:
    data, train = raw["data"] | {"validation": validation}, raw["train"] | {"precision": "fp32"} | settings
    recipe, hears = Recipe.parse({**raw, "data": data, "train": train}), Hears()
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder, hears)
    return Run.open(folder), hears


def loss_of(run: Run, rows: list[Any]) -> float:
    """The mean loss of the saved model over the answer tokens of some dialogues."""
    prompt = Prompt.build(run.recipe.prompt, AutoTokenizer.from_pretrained(run.folder / "model"))
    model = AutoModelForCausalLM.from_pretrained(run.folder / "model", dtype=torch.float32)
    summed, count = 0.0, 0
    for dialogue in rows:
        example = prompt.example(dialogue.question, dialogue.answer)
        ids = torch.tensor([example.input_ids])
        labels = ids.clone()
        labels[:, : example.learn_from] = -100
        with torch.no_grad():
            summed, count = summed + float(model(ids, labels=labels).loss) * example.learnt, count + example.learnt
    return summed / count


def test_a_rate_that_diverges_is_stopped_and_the_best_weights_from_before_are_kept(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    run, hears = trained(small_recipe, tmp_path, **WILD, warmup=8, evaluate_every=1)
    report, metrics = run.read_json("train.json", "train"), run.read_jsonl("metrics.jsonl", "train")
    assert report["stopped_by"] == "divergence"
    assert report["restored_step"] == report["best_step"] < report["stopped_at"] == report["steps"] < 36
    assert loss_of(run, run.dialogues("validation")) == pytest.approx(report["best_validation_loss"], abs=1e-4)
    assert report["best_validation_loss"] < metrics[0]["loss"]
    # Said at the step at which it was found, and no step came after it.
    (said,) = [(step, text) for step, text in hears.said if text.startswith("divergence at step")]
    assert said[0] == report["stopped_at"] == metrics[-1]["step"]
    assert "train.learning_rate" in said[1]
    assert not (run.folder / "checkpoints").exists()


def test_without_validation_the_newest_weights_from_before_the_trouble_are_kept(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    run, _ = trained(small_recipe, tmp_path, 0, **WILD, warmup=4, evaluate_every=1)
    report, metrics = run.read_json("train.json", "train"), run.read_jsonl("metrics.jsonl", "train")
    assert report["stopped_by"] == "divergence"
    assert report["best_step"] == report["restored_step"]
    after = metrics[report["restored_step"]]  # the step that was taken from the weights that are kept
    rows = fit._rows(run, run.recipe, after["step"])
    learnt = [dialogue for dialogue in run.dialogues("train") if dialogue.row in rows]
    assert loss_of(run, learnt) == pytest.approx(after["loss"], abs=1e-4)
    assert after["loss"] < metrics[0]["loss"] < metrics[after["step"]]["loss"]


def test_a_run_that_diverges_before_its_first_checkpoint_ends_in_one_line(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        trained(small_recipe, tmp_path, **WILD, warmup=0, evaluate_every=2)
    message = str(raised.value)
    assert "\n" not in message
    assert "divergence at step 2 of 36" in message
    assert "train.learning_rate by 3" in message
    assert message.endswith("(train.learning_rate is 1)")
    assert [name for name in ("model", "adapter", "train.json", "checkpoints") if (tmp_path / name).exists()] == []


def test_the_command_then_exits_with_two(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.parse({**small_recipe, "train": {**small_recipe["train"], **WILD, "warmup": 0}})
    file = tmp_path / "wild.yaml"
    file.write_text(recipe.dump(), "utf-8")
    result = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "residency: training stopped by divergence" in result.output
    assert "Traceback" not in result.output


@pytest.mark.fault("NaN in a step", "train", "stopped, with the weights from before it")
@pytest.mark.parametrize("validation", [0.1, 0])
def test_weights_that_are_no_numbers_are_never_kept(
    validation: float, small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ResidencyTrainer.training_step

    def poisoned(self: Any, model: Any, inputs: Any, count: Any = None) -> torch.Tensor:
        loss = real(self, model, inputs, count)
        if self.state.global_step == 6:  # the gradient of the seventh step
            next(weight for weight in model.parameters() if weight.requires_grad).grad.fill_(math.nan)
        return loss

    monkeypatch.setattr(ResidencyTrainer, "training_step", poisoned)
    run, hears = trained(small_recipe, tmp_path, validation, epochs=3, evaluate_every=3)
    report = run.read_json("train.json", "train")
    assert (report["stopped_by"], report["stopped_at"], report["restored_step"]) == ("not-a-number", 7, 6)
    assert hears.kinds == ["not-a-number"]
    assert all(bool(weight.isfinite().all()) for weight in models.load_tuned(run.folder / "model").parameters())
    assert [finding["kind"] for finding in report["diagnosis"]] == ["not-a-number"]


def test_a_healthy_run_raises_nothing(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    run, hears = trained(small_recipe, tmp_path, epochs=6)
    report = run.read_json("train.json", "train")
    assert hears.kinds == []
    assert report["diagnosis"] == []
    assert (report["stopped_by"], report["stopped_at"], report["restored_step"]) == (None, None, None)


def test_what_is_said_at_the_end_is_said_once_as_well(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    run, hears = trained(small_recipe, tmp_path, method="full", epochs=3)
    assert (
        hears.kinds == ["still-learning"] == [one["kind"] for one in run.read_json("train.json", "train")["diagnosis"]]
    )


def test_the_rows_of_a_step_are_those_that_went_through_the_model(
    small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[set[str]] = []
    real = ResidencyTrainer.training_step

    def spy(self: Any, model: Any, inputs: Any, count: Any = None) -> torch.Tensor:
        texts = [labels[labels != -100].tolist() for batch in inputs["micro_batches"] for labels in batch["labels"]]
        learnt.append({str(ids) for ids in texts})
        return real(self, model, inputs, count)

    monkeypatch.setattr(ResidencyTrainer, "training_step", spy)
    run, _ = trained(small_recipe, tmp_path, epochs=2)
    prompt = Prompt.build(run.recipe.prompt, AutoTokenizer.from_pretrained(run.folder / "model"))
    examples = {d.row: prompt.example(d.question, d.answer) for d in run.dialogues("train")}
    for step, seen in enumerate(learnt, start=1):
        named = [examples[row] for row in fit._rows(run, run.recipe, step)]
        assert {str(list(example.input_ids[example.learn_from :])) for example in named} == seen


def told(metrics: list[dict[str, Any]], before: int = 0) -> tuple[Guard, Hears]:
    """A guard that has seen rows come one by one; the first so many were there when training was resumed."""
    grown, hears = metrics[:before], Hears()
    guard = Guard(grown, hears, lambda step: [step, step + 100])
    arguments, state, control = TrainingArguments(output_dir="unused", use_cpu=True), TrainerState(), TrainerControl()
    for row in metrics[before:]:
        grown.append(row)
        guard.on_log(arguments, state, control, model=torch.nn.Linear(1, 1))
    return guard, hears


SPIKED = [{"step": step, "loss": 6.0 if step in (21, 30) else 2.0} for step in range(1, 41)]


def test_a_spike_names_its_rows_once_aloud_and_each_in_the_report() -> None:
    guard, hears = told(SPIKED)
    assert [text.partition(" Rows: ")[2] for _, text in hears.said if text.startswith("loss-spike")] == ["21, 121."]
    spikes = [finding for finding in guard.findings() if finding.kind == "loss-spike"]
    assert [(finding.step, finding.rows) for finding in spikes] == [(21, (21, 121)), (30, (30, 130))]


def test_what_was_said_before_a_resume_is_not_said_again() -> None:
    assert told(SPIKED, before=26)[1].kinds == []
    assert len(told(SPIKED, before=26)[0].findings()) == 2
    assert told(SPIKED, before=23)[1].kinds == ["loss-spike"]


def adapted(folder: Path, filled: float) -> Any:
    model = attach_lora(AutoModelForCausalLM.from_pretrained(folder), LoraSection(rank=2, targets=("q_proj",)))
    for name, weight in model.named_parameters():
        if "lora_B" in name and "layers.1." in name:
            torch.nn.init.constant_(weight, filled)
    return model


def test_an_adapter_is_dead_while_its_update_is_zero(llama_folder: Path) -> None:
    assert dead_adapters(adapted(llama_folder, 0.0))[1] == 2
    assert len(dead_adapters(adapted(llama_folder, 0.0))[0]) == 2
    assert dead_adapters(adapted(llama_folder, 0.1)) == (["model.layers.0.self_attn.q_proj"], 2)
    assert dead_adapters(AutoModelForCausalLM.from_pretrained(llama_folder)) == ([], 0)


@pytest.mark.parametrize("frozen", [True, False])
def test_adapters_that_learn_nothing_are_named_after_ten_updates(
    frozen: bool, llama_folder: Path, tmp_path: Path
) -> None:
    model = adapted(llama_folder, 0.0)
    for name, weight in model.named_parameters():
        weight.requires_grad = weight.requires_grad and not (frozen and "layers.0." in name)
    examples = [Example(tuple(range(5 + n, 25 + n)), 4) for n in range(4)]
    trainer = ResidencyTrainer(
        model=model,
        args=TrainingArguments(
            str(tmp_path), max_steps=14, logging_steps=1, use_cpu=True, report_to="none", disable_tqdm=True,
            save_strategy="no", remove_unused_columns=False,
        ),
        train_dataset=examples, validation=[], pad_id=0, tokens_per_batch=500,
    )  # fmt: skip
    metrics: list[dict[str, Any]] = []
    hears = Hears()
    guard = Guard(metrics, hears, lambda _: [])
    trainer.add_callback(Recorder(Counts, metrics.append, 0.0))
    trainer.add_callback(guard)
    trainer.train()
    found = [finding for finding in guard.findings() if finding.kind == "dead-adapters"]
    assert [finding.step for finding in found] == ([DEAD_AFTER] if frozen else [])
    assert all("1 of 2 adapters" in finding.advice and "layers.0" in finding.advice for finding in found)
    assert [text for _, text in hears.said if "dead-adapters" in text] == [
        f"dead-adapters at step {finding.step}: {finding.advice}" for finding in found
    ]


@pytest.mark.parametrize(
    ("fault", "losses", "validations", "good"),
    [
        ("divergence", [4.0, 3.0, 2.5, 9.0, 9.0, 9.0, 9.0, 9.0], [], 2),
        ("divergence", [4.0, 3.0, 2.5, 3.5, 6.0, 9.0, 9.0, 9.0], [(2, 3.0), (3, 3.1), (4, 3.6)], 3),
        ("not-a-number", [4.0, 3.0, math.nan], [], 1),
        ("not-a-number", [4.0, 3.0, math.nan], [(2, 2.9)], 2),
        ("not-a-number", [4.0, 3.0, 2.9], [(1, 3.5), (3, math.nan)], 2),
        ("not-a-number", [4.0, 9.0, 500.0, math.nan], [], 0),  # a number, and no good sign
        ("not-a-number", [4.0, 9.0, 500.0, math.nan], [(2, 80.0), (3, 90.0)], 0),
        ("not-a-number", [math.nan], [], 0),
    ],
)
def test_weights_are_good_up_to_the_last_step_that_shows_it(
    fault: str, losses: list[float], validations: list[tuple[int, float]], good: int
) -> None:
    curves = Curves()
    for step, loss in enumerate(losses, start=1):
        curves.add({"step": step, "loss": loss})
    curves.validations = validations
    assert fault in FATAL
    assert last_good(curves, Finding(fault, len(losses), "")) == good
