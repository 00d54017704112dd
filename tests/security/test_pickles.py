"""No pickle is ever loaded, whatever file it lies in."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import StopsAt
from planted import pickled, pickled_plainly
from residency import models, pipeline
from residency.errors import Interrupted, UserError
from residency.recipe import ModelSection, Recipe
from residency.train import checkpoints
from residency.workspace import Run

SOURCE = Path(__file__).parents[2] / "src" / "residency"
STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that a planted pickle makes."""
    return tmp_path / "it-ran"


def test_weights_in_a_pickle_are_refused_in_a_line_and_do_not_run(
    llama_folder: Path, tmp_path: Path, mark: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    (folder / "model.safetensors").unlink()
    for name, plant in (("pytorch_model.bin", pickled), ("weights.pkl", pickled_plainly)):
        plant(folder / name, mark)
        with pytest.raises(UserError, match=rf"{name}.*can run code.*expected model\.safetensors") as told:
            models.load_base(ModelSection(base=str(folder)))
        assert "\n" not in str(told.value)
        with pytest.raises(UserError, match="can run code"):
            models.load_tuned(folder)
        assert not models.has_weights(ModelSection(base=str(folder)))
        (folder / name).unlink()
    assert not mark.exists()


def test_a_pickle_beside_safe_weights_is_left_alone(llama_folder: Path, tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        pickled(folder / name, mark)
    assert models.load_base(ModelSection(base=str(folder))).config.model_type == "llama"
    assert models.load_tuned(folder).config.model_type == "llama"
    assert not mark.exists()


def test_an_adapter_in_a_pickle_is_refused(llama_folder: Path, tmp_path: Path, mark: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM"}))
    pickled(tmp_path / "adapter_model.bin", mark)
    with pytest.raises(UserError, match=r"adapter_model\.bin.*can run code"):
        models.load_adapted(ModelSection(base=str(llama_folder)), tmp_path)
    assert not mark.exists()


@pytest.fixture(scope="module")
def stopped(llama_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped behind a checkpoint."""
    raw = {
        "name": "small",
        "data": {"source": str(data_file), "question": "Description", "answer": "Doctor", "validation": 0.1},
        "model": {"base": str(llama_folder), "max_length": 256},
        "train": {"max_steps": 4, "examples_per_step": 4, "learning_rate": 0.01, "evaluate_every": 2},
    }
    folder = tmp_path_factory.mktemp("runs") / "small"
    recipe = Recipe.parse(raw)
    pipeline.prepare(recipe, folder)
    with pytest.raises(Interrupted):
        pipeline.train(recipe, folder, StopsAt(3))
    return folder


def planted_in(stopped: Path, folder: Path, plant: Any) -> Run:
    """A copy of the run with something planted in its newest checkpoint, whose manifest is in order again."""
    shutil.copytree(stopped, folder)
    checkpoint = checkpoints.newest(folder / checkpoints.FOLDER)
    assert checkpoint
    about = {key: value for key, value in checkpoints.manifest_of(checkpoint).items() if key != "files"}
    plant(checkpoint)
    Run(checkpoint).seal(**about)
    assert not checkpoints.fault_of(checkpoint)
    return Run.open(folder)


@pytest.mark.parametrize("name", [*STATES, "pytorch_model.bin"])
def test_a_planted_state_of_training_does_not_run(stopped: Path, tmp_path: Path, mark: Path, name: str) -> None:
    run = planted_in(stopped, tmp_path / "run", lambda checkpoint: pickled(checkpoint / name, mark))
    with pytest.raises(UserError, match=r"can't be read \(a file in it holds more than plain tensors\).*remove it"):
        pipeline.train(run.recipe, run.folder, resume=True)
    assert not mark.exists()


def test_pickles_beside_a_checkpoint_are_left_alone(stopped: Path, tmp_path: Path, mark: Path) -> None:
    def plant(checkpoint: Path) -> None:
        for name in ("training_args.bin", "adapter_model.bin"):
            pickled(checkpoint / name, mark)

    run = planted_in(stopped, tmp_path / "run", plant)
    pipeline.train(run.recipe, run.folder, resume=True)
    assert (run.folder / "train.json").is_file()
    assert not mark.exists()


def test_no_checkpoint_holds_a_pickle_but_states_of_plain_tensors(stopped: Path) -> None:
    checkpoint = checkpoints.newest(stopped / checkpoints.FOLDER)
    assert checkpoint
    binary = {path.name for path in checkpoint.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")}
    assert binary == set(STATES)
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(checkpoint / name, weights_only=True)


# Between a process and those that it has started, or a Ray cluster that the user names; never from a file.
OF_ITS_OWN_PROCESSES = ("sharing/cluster.py", "sharing/processes.py", "sharing/workers.py")


def test_no_module_unpickles_by_itself() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            unpickling = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} & set(names)
            assert not unpickling or path.relative_to(SOURCE).as_posix() in OF_ITS_OWN_PROCESSES, path
            called = isinstance(node, ast.Call) and ast.unparse(node.func)
            if called == "torch.load" and "weights_only=True" in map(ast.unparse, node.keywords):
                continue  # plain tensors alone
            assert called not in ("torch.load", "np.load", "yaml.load", "eval", "exec"), path
