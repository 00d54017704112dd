from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from residency import environment, pipeline
from residency.errors import Interrupted, UserError
from residency.progress import Silent
from residency.recipe import Recipe
from residency.train import checkpoints, fit, loop
from residency.workspace import Run

CLOCK = ("seconds", "step_seconds", "tokens_per_second")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A test that fails must not leave its handlers to the next."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Hears(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


class At(TrainerCallback):
    """Does something at the beginning of a step."""

    def __init__(self, step: int, deed: Any) -> None:
        self.step, self.deed = step, deed

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step + 1 == self.step:
            self.deed()


def recipe_of(raw: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe.parse({**raw, "train": {**raw["train"], "precision": "fp32", **settings}})


def ended(folder: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    rows = Run.open(folder).read_jsonl("metrics.jsonl", "train")
    return (
        [{key: value for key, value in row.items() if key not in CLOCK} for row in rows],
        load_file(folder / "model" / "model.safetensors"),
    )


def assert_same(one: Path, other: Path) -> None:
    (rows, weights), (others, other_weights) = ended(one), ended(other)
    assert rows == others
    assert all(torch.equal(tensor, other_weights[name]) for name, tensor in weights.items())


def both(recipe: Recipe, folder: Path) -> tuple[Path, Path]:
    """Two prepared run folders, the first trained to the end."""
    for name in ("whole", "stopped"):
        pipeline.prepare(recipe, folder / name)
    pipeline.train(recipe, folder / "whole")
    return folder / "whole", folder / "stopped"


@pytest.mark.parametrize(
    "settings",
    [
        {
            "method": "full",
            "learning_rate": 0.3,
            "epochs": 8,
            "evaluate_every": 2,
            "patience": 2,
            "schedule": "constant",
        },
        {"max_steps": 8, "evaluate_every": 3},
    ],
    ids=["stopped early", "in the middle of an epoch"],
)
def test_a_training_that_has_come_to_its_end_is_not_gone_on_with(
    settings: dict[str, Any], small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c(*_: Any) -> None:
        raise KeyboardInterrupt

    recipe = recipe_of(small_recipe, **settings)
    whole, stopped = both(recipe, tmp_path)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(fit, "_save", ctrl_c)
        pipeline.train(recipe, stopped)
    report = pipeline.train(recipe, stopped, resume=True)
    assert_same(whole, stopped)
    assert report.steps == Run.open(whole).read_json("train.json", "train")["steps"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_training_after_its_step_and_the_second_at_once(
    number: signal.Signals, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe, hears = recipe_of(small_recipe, epochs=2, evaluate_every=4), Hears()
    whole, stopped = both(recipe, tmp_path)
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match="step 6 of 12"):
        pipeline.train(recipe, stopped, hears, callbacks=[At(6, lambda: signal.raise_signal(number))])
    assert "Stopping after this step, with a checkpoint; once more stops at once" in hears.said
    assert (stopped / "checkpoints" / "checkpoint-6").is_dir()

    def twice() -> None:
        signal.raise_signal(number)
        signal.raise_signal(number)

    with pytest.raises(Interrupted, match="step 8 of 12"):
        pipeline.train(recipe, stopped, resume=True, callbacks=[At(9, twice)])
    assert not (stopped / "checkpoints" / "checkpoint-9").exists()
    pipeline.train(recipe, stopped, resume=True)
    assert_same(whole, stopped)
    assert signal.getsignal(number) is handler


def test_a_stop_at_the_last_step_is_a_stop_and_resuming_only_saves(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = recipe_of(small_recipe, evaluate_every=4)
    whole, stopped = both(recipe, tmp_path)
    with pytest.raises(Interrupted, match="step 6 of 6"):
        pipeline.train(recipe, stopped, callbacks=[At(6, lambda: signal.raise_signal(signal.SIGINT))])
    pipeline.train(recipe, stopped, resume=True)
    assert_same(whole, stopped)


def test_a_finished_training_is_told_so_and_left_as_it_is(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe, hears = recipe_of(small_recipe, max_steps=2), Hears()
    pipeline.prepare(recipe, tmp_path)
    report = pipeline.train(recipe, tmp_path)
    before = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    assert pipeline.train(recipe, tmp_path, hears, resume=True) == report
    assert hears.said == ["This training has come to its end: there is nothing to resume"]
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert pipeline.verify(tmp_path) == []


def test_a_callback_of_ones_own_sees_the_steps_and_may_end_the_training(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    class Enough(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            control.should_training_stop = state.global_step == 3

    recipe = recipe_of(small_recipe)
    pipeline.prepare(recipe, tmp_path)
    report = pipeline.train(recipe, tmp_path, callbacks=[Enough()])
    assert (report.steps, report.stopped_early) == (3, True)


def test_a_whole_run_goes_on_with_its_recipe_and_with_no_other(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe, folder = recipe_of(small_recipe, evaluate_every=2), tmp_path / "run"
    with pytest.raises(Interrupted):
        pipeline.run(recipe, folder, callbacks=[At(4, lambda: signal.raise_signal(signal.SIGINT))])
    with pytest.raises(UserError, match=r"checkpoint-4: .*\(train.seed: was 42, is 7\)"):
        pipeline.run(recipe_of(small_recipe, evaluate_every=2, seed=7), folder, resume=True)
    with pytest.raises(UserError, match=r"other settings under data \(data.seed: was 123, is 7\)"):
        small = {**small_recipe, "data": {**small_recipe["data"], "seed": 7}}
        pipeline.run(recipe_of(small, evaluate_every=2), folder, resume=True)
    with pytest.raises(UserError, match="no such folder"):
        pipeline.train(recipe_of(small_recipe, continue_from="nowhere"), folder)  # leaves its recipe, and no model
    unimportant = recipe_of(
        {**small_recipe, "evaluate": {**small_recipe["evaluate"], "questions": 2}}, evaluate_every=2
    )
    assert pipeline.run(unimportant, folder, resume=True).is_file()
    assert Run.open(folder).read_json("evaluation/scores.json", "evaluate")["questions"] == 2


def test_a_checkpoint_of_other_versions_is_gone_on_from_and_they_are_named(tmp_path: Path) -> None:
    run, here = Run(tmp_path), environment.describe()
    written = checkpoints.place(tmp_path / checkpoints.FOLDER, 3)
    written.mkdir(parents=True)
    origin = {"step": 3, "over": False, "recipe": {}, "data": {}}
    Run(written).seal(**origin, versions=here)
    hears = Hears()
    assert loop.resumable(run, hears) == written
    assert hears.said == []
    Run(written).seal(**origin, versions={**here, "torch": "1.0"})
    assert loop.resumable(run, hears) == written
    (line,) = hears.said
    assert f"torch: was 1.0, is {here['torch']}" in line and "bits may differ" in line
