from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import dialogues, write_jsonl
from residency import pipeline
from residency.errors import Interrupted, UserError
from residency.progress import Silent
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.train import fit
from residency.train.results import finished
from residency.workspace import Run

SAME = ("step", "epoch", "loss", "validation_loss", "learning_rate", "grad_norm", "answer_tokens", "total_tokens")


def recipe_of(raw: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe.parse({**raw, "train": {**raw["train"], "precision": "fp32", **settings}})


def trained(raw: dict[str, Any], folder: Path, **settings: Any) -> Run:
    """The small chat model, prepared and trained under changed settings."""
    recipe = recipe_of(raw, **settings)
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder)
    return Run.open(folder)


class Hears(Silent):
    """Keeps what was said, and presses Ctrl-C at a step of training."""

    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at = stop_at
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        if task == "Training" and done == self.stop_at:
            raise KeyboardInterrupt


def stopped_and_resumed(raw: dict[str, Any], folder: Path, *stops: int, **settings: Any) -> Run:
    """The same as `trained`, but stopped at some steps on the way."""
    recipe = recipe_of(raw, **settings)
    pipeline.prepare(recipe, folder)
    for number, stop in enumerate(stops):
        with pytest.raises(Interrupted, match=f"step {stop} of"):
            pipeline.train(recipe, folder, Hears(stop), resume=number > 0)
    pipeline.train(recipe, folder, resume=True)
    return Run.open(folder)


def rows(run: Run) -> list[dict[str, Any]]:
    return run.read_jsonl("metrics.jsonl", "train")


def column(run: Run, key: str) -> list[Any]:
    return [row[key] for row in rows(run) if key in row]


def report(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = run.read_json("train.json", "train")
    return found


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "model" / "model.safetensors")


def same_bits(one: Run, other: Run) -> bool:
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def assert_same_training(one: Run, other: Run) -> None:
    """Weights to the bit, and every number of the curves that does not depend on the clock."""
    first, second = ([{key: row.get(key) for key in SAME} for row in rows(run)] for run in (one, other))
    assert first == second
    assert same_bits(one, other)
    for key in ("steps", "answer_tokens", "total_tokens", "passed_share", "best_step", "stopped_early"):
        assert report(one)[key] == report(other)[key], key


# Six steps an epoch, a checkpoint every third. The stops fall after an epoch's last step, inside the second epoch, and
# inside the third after an earlier stop.
@pytest.mark.parametrize(
    ("stops", "settings"),
    [
        ((13,), {"method": "full", "optimizer": "adafactor"}),
        ((11,), {"method": "full", "precision": "bf16"}),
        ((8, 17), {"method": "lora", "lora": {"rank": 4, "dropout": 0.1}, "precision": "bf16"}),
    ],
    ids=["between epochs", "second epoch", "twice"],
)
def test_resuming_is_exact_wherever_the_run_was_stopped(
    stops: tuple[int, ...], settings: dict[str, Any], small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"epochs": 3, "evaluate_every": 3}
    whole = trained(small_recipe, tmp_path / "whole", **settings)
    assert report(whole)["steps"] == 18
    assert_same_training(whole, stopped_and_resumed(small_recipe, tmp_path / "stopped", *stops, **settings))


def test_patience_counts_on_after_a_stop(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    settings = {
        "method": "full", "learning_rate": 0.3, "epochs": 12, "evaluate_every": 2, "patience": 3,
        "schedule": "constant",
    }  # fmt: skip
    whole = trained(small_recipe, tmp_path / "whole", **settings)
    assert report(whole)["stopped_early"]
    # Two of the three validations without a better one lie before the stop.
    stop = report(whole)["best_step"] + 5
    assert stop < report(whole)["steps"]
    assert_same_training(whole, stopped_and_resumed(small_recipe, tmp_path / "stopped", stop, **settings))


def test_a_run_stopped_before_its_first_checkpoint_starts_at_the_beginning(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"max_steps": 4, "evaluate_every": 3}
    whole = trained(small_recipe, tmp_path / "whole", **settings)
    recipe, folder, hears = recipe_of(small_recipe, **settings), tmp_path / "stopped", Hears()
    pipeline.prepare(recipe, folder)
    with pytest.raises(Interrupted):
        pipeline.train(recipe, folder, Hears(2))
    pipeline.train(recipe, folder, hears, resume=True)
    assert "No checkpoint to go on from: training starts at the beginning" in hears.said
    assert_same_training(whole, Run.open(folder))


def test_a_run_stopped_while_its_result_was_saved_only_saves_it_again(
    small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c(*_: Any) -> None:
        raise KeyboardInterrupt

    settings = {"epochs": 2, "evaluate_every": 3}
    whole = trained(small_recipe, tmp_path / "whole", **settings)
    recipe, folder = recipe_of(small_recipe, **settings), tmp_path / "stopped"
    pipeline.prepare(recipe, folder)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(fit, "_save", ctrl_c)
        pipeline.train(recipe, folder)
    pipeline.train(recipe, folder, resume=True)
    assert_same_training(whole, Run.open(folder))


def test_a_checkpoint_that_was_cut_short_is_passed_over(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    settings = {"epochs": 2, "evaluate_every": 3}
    whole = trained(small_recipe, tmp_path / "whole", **settings)
    recipe, folder = recipe_of(small_recipe, **settings), tmp_path / "stopped"
    pipeline.prepare(recipe, folder)
    with pytest.raises(Interrupted):
        pipeline.train(recipe, folder, Hears(8))
    torn = folder / "checkpoints" / "checkpoint-6"
    for file in torn.iterdir():
        if file.name != "adapter_config.json":
            file.unlink()
    pipeline.train(recipe, folder, resume=True)
    assert_same_training(whole, Run.open(folder))


def test_training_anew_never_goes_on_from_an_older_trainings_checkpoint(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    before = recipe_of(small_recipe, epochs=3, evaluate_every=3)
    after = recipe_of(small_recipe, epochs=3, evaluate_every=3, learning_rate=0.001)
    pipeline.prepare(before, tmp_path)
    with pytest.raises(Interrupted):
        pipeline.train(before, tmp_path, Hears(13))
    with pytest.raises(Interrupted):
        pipeline.train(after, tmp_path, Hears(5))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-3"]
    pipeline.train(after, tmp_path, resume=True)
    assert [row["step"] for row in rows(Run.open(tmp_path)) if "loss" in row] == list(range(1, 19))
    assert max(column(Run.open(tmp_path), "learning_rate")) == pytest.approx(0.001)


def test_a_training_that_can_not_begin_takes_no_checkpoint_away(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(small_recipe, epochs=3, evaluate_every=3)
    pipeline.prepare(recipe, tmp_path)
    with pytest.raises(Interrupted):
        pipeline.train(recipe, tmp_path, Hears(5))
    with pytest.raises(UserError, match=r"train\.lora\.targets"):
        pipeline.train(recipe_of(small_recipe, lora={"targets": ["nothing"]}), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-3"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_seed_gives_the_same_model_again_and_another_seed_another(
    method: str, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"method": method, "max_steps": 3}
    runs = [trained(small_recipe, tmp_path / str(n), seed=seed, **settings) for n, seed in enumerate((5, 5, 6))]
    assert same_bits(runs[0], runs[1])
    assert not same_bits(runs[0], runs[2])


def test_a_run_is_the_same_however_its_steps_are_cut(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    cut, whole = (
        trained(small_recipe, tmp_path / str(tokens), method="full", tokens_per_batch=tokens) for tokens in (1, 100_000)
    )
    assert column(cut, "loss") == pytest.approx(column(whole, "loss"), abs=1e-3)
    assert column(cut, "answer_tokens") == column(whole, "answer_tokens")
    assert report(cut)["passed_share"] == 1 > report(whole)["passed_share"]  # what all prompts begin with, once


def test_validation_comes_every_so_many_steps_and_at_the_end(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    run = trained(small_recipe, tmp_path, max_steps=8, evaluate_every=3)
    assert [row["step"] for row in rows(run) if "validation_loss" in row] == [3, 6, 8]
    assert [row["step"] for row in rows(run) if "loss" in row] == list(range(1, 9))


def test_a_warm_up_below_one_is_a_share_of_all_steps(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    run = trained(small_recipe, tmp_path, max_steps=10, warmup=0.25, schedule="linear")
    rising = [0.01 * step / 3 for step in range(3)]
    falling = [0.01 * (1 - step / 7) for step in range(7)]
    assert column(run, "learning_rate") == pytest.approx(rising + falling, abs=1e-9)


def test_each_row_of_the_metrics_has_its_numbers(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    run = trained(small_recipe, tmp_path, epochs=2)
    for row in rows(run):
        kind = {"validation_loss"} if "validation_loss" in row else {"loss", "learning_rate", "grad_norm"}
        assert {"step", "epoch", "seconds", "total_tokens", "answer_tokens", "tokens_per_second"} | kind <= set(row)
        assert all(math.isfinite(value) for value in row.values())
        assert row["tokens_per_second"] > 0
    for key in ("step", "epoch", "seconds", "total_tokens", "answer_tokens"):
        assert column(run, key) == sorted(column(run, key))
    assert column(run, "epoch")[-1] == 2


def test_the_report_of_a_version_that_padded_every_batch_is_read(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    run = trained(small_recipe, tmp_path)
    found = report(run)
    del found["passed_share"]
    run.write_json("train.json", found | {"padding_share": 0.2})
    again = finished(run)
    assert again is not None
    assert again.passed_share == 1.25


def test_train_json_counts_what_went_through_the_model(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    run = trained(small_recipe, tmp_path, epochs=2, evaluate_every=4)
    found = report(run)
    assert set(found) == {
        "method", "steps", "examples", "answer_tokens", "total_tokens", "passed_share", "seconds", "tokens_per_second",
        "mfu", "peak_memory_bytes", "precision", "device", "best_step", "best_validation_loss", "stopped_early",
        "diagnosis", "stopped_by", "stopped_at", "restored_step", "merge", "summary", "environment",
        "best_by", "best_value", "averaged", "averaged_validation_loss", "preference",
        "continued_from", "forecast", "compiled", "ranks", "made_from", "dithered",
        "int8",
    }  # fmt: skip
    prompt = Prompt.build(run.recipe.prompt, AutoTokenizer.from_pretrained(run.folder / "model"))
    examples = [prompt.example(dialogue.question, dialogue.answer) for dialogue in run.dialogues("train")]
    assert found["examples"] == len(examples)
    assert found["total_tokens"] == 2 * sum(len(example) for example in examples)
    assert found["answer_tokens"] == 2 * sum(example.learnt for example in examples)
    assert (found["method"], found["precision"], found["stopped_early"]) == ("lora", "fp32", False)
    assert found["steps"] == 2 * math.ceil(len(examples) / 8) == found["summary"]["steps"]
    validations = {row["validation_loss"]: row["step"] for row in rows(run) if "validation_loss" in row}
    assert found["best_step"] == validations[found["best_validation_loss"]] == validations[min(validations)]


def test_without_a_validation_split_the_last_weights_are_kept(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    small_recipe["data"]["validation"] = 0
    run = trained(small_recipe, tmp_path, method="full", max_steps=3, patience=2)
    assert column(run, "validation_loss") == []
    assert (report(run)["best_step"], report(run)["best_validation_loss"]) == (3, None)
    assert not (run.folder / "checkpoints").exists()


def test_fewer_examples_than_a_step_asks_for_make_one_step_an_epoch(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    small_recipe["data"] |= {"source": str(write_jsonl(tmp_path / "few.jsonl", dialogues(8))), "test": 0.2}
    small_recipe["data"]["validation"] = 0.2
    run = trained(small_recipe, tmp_path / "run", epochs=3)
    assert report(run)["steps"] == 3


def test_a_neox_without_a_padding_token_trains_and_reloads(
    small_recipe: dict[str, Any], neox_folder: Path, tmp_path: Path
) -> None:
    small_recipe["model"]["base"] = str(neox_folder)
    run = trained(small_recipe, tmp_path, method="full", epochs=2)
    losses = column(run, "loss")
    assert losses[-1] < losses[0] - 0.1
    tokenizer = AutoTokenizer.from_pretrained(run.folder / "model")
    model = AutoModelForCausalLM.from_pretrained(run.folder / "model")
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id]
    assert model.generation_config.pad_token_id == tokenizer.eos_token_id
    base = load_file(neox_folder / "model.safetensors")
    assert any(not torch.equal(tensor, base[name]) for name, tensor in weights(run).items())


def test_the_training_leaves_files_that_a_copied_folder_still_loads(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    run = trained(small_recipe, tmp_path / "run", max_steps=2)
    model = tmp_path / "elsewhere"
    shutil.copytree(run.folder / "model", model)
    shutil.rmtree(run.folder)
    config = json.loads((model / "config.json").read_text())
    assert config["dtype"] == "float32"
    assert AutoModelForCausalLM.from_pretrained(model).dtype == torch.float32
