"""A run is repeatable: the same recipe gives the same weights, and its manifest makes it again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from residency import pipeline
from residency.again import again, differing, looked_at, read
from residency.cli import app
from residency.errors import UserError
from residency.recipe import Recipe
from residency.workspace import Run


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def source(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows in a file that a test may change."""
    return Path(shutil.copy(data_file, tmp_path_factory.mktemp("source")))


@pytest.fixture(scope="module")
def first(llama_folder: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, of LoRA with dropout, which draws random numbers as it goes."""
    recipe = Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(source), "question": "Description", "answer": "Doctor", "validation": 0.1},
            "model": {"base": str(llama_folder), "max_length": 256},
            "train": {"max_steps": 4, "examples_per_step": 8, "learning_rate": 0.01, "lora": {"dropout": 0.1}},
            "evaluate": {"questions": 4, "max_new_tokens": 8, "resamples": 100, "off_topic": False},
        }
    )
    folder = tmp_path_factory.mktemp("runs") / "small"
    pipeline.run(recipe, folder)
    return folder


def test_the_manifest_names_every_input_by_hash_with_seeds_and_versions(
    first: Path, source: Path, llama_folder: Path
) -> None:
    manifest = json.loads((first / "manifest.json").read_text("utf-8"))
    made = manifest["made_from"]
    assert made["prepare"]["inputs"] == {source.name: sha(source)}
    assert made["train"]["inputs"] == {
        f"{llama_folder}/{path.name}": sha(path) for path in sorted(llama_folder.iterdir()) if path.suffix != ".md"
    }
    assert (made["prepare"]["seed"], made["train"]["seed"]) == (123, manifest["recipe"]["train"]["seed"])
    assert {"torch", "transformers", "residency", "machine"} <= set(made["train"]["versions"])
    assert Recipe.parse(manifest["recipe"], "manifest") == Run(first).recipe


def test_a_run_made_again_from_its_manifest_is_the_same_to_the_bit(first: Path) -> None:
    result = CliRunner().invoke(app, ["run", "--from-manifest", str(first / "manifest.json")])
    assert result.exit_code == 0, result.output
    assert "data and model are the same to the bit" in result.output
    other = first.with_name("small-again")
    for name in ("model/model.safetensors", "adapter/adapter_model.safetensors", "data/train.jsonl"):
        assert sha(other / name) == sha(first / name)
    assert CliRunner().invoke(app, ["verify", str(other)]).exit_code == 0
    then, now = read(first / "manifest.json"), read(other / "manifest.json")
    now["files"]["model/model.safetensors"]["sha256"] = "0"
    assert differing(then, now) == ["model/model.safetensors"]


def test_an_input_that_has_changed_is_named_in_one_line(first: Path, source: Path, tmp_path: Path) -> None:
    before = source.read_text("utf-8")
    try:
        source.write_text(before + before.splitlines()[0] + "\n", "utf-8")
        result = CliRunner().invoke(
            app, ["run", "--from-manifest", str(first / "manifest.json"), "--out", str(tmp_path)]
        )
        assert result.exit_code == 2
        (line,) = [line for line in result.output.splitlines() if line.startswith("residency: ")]
        digits = json.loads((first / "manifest.json").read_text("utf-8"))["made_from"]["prepare"]["inputs"][source.name]
        assert f"{source.name}: was {digits[:12]}, is {sha(source)[:12]}" in line
        assert not list(tmp_path.iterdir())
        verified = CliRunner().invoke(app, ["verify", str(first)])
        assert verified.exit_code == 0 and f"what it was made from is not ({source.name}: was" in verified.output
    finally:
        source.write_text(before, "utf-8")
    assert looked_at(first) == []
    assert "so is what it was made from" in CliRunner().invoke(app, ["verify", str(first)]).output


def test_another_version_is_told_and_no_reason_to_stop(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    manifest = json.loads((first / "manifest.json").read_text("utf-8"))
    manifest["made_from"]["train"]["versions"]["torch"] = "1.0"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("residency.again.run", lambda recipe, folder, progress: shutil.copytree(first, folder))

    class Hears(pipeline.Silent):
        def say(self, text: str) -> None:
            said.append(text)

    folder, differ = again(tmp_path / "manifest.json", tmp_path / "run", Hears())
    assert (folder, differ) == (tmp_path / "run", [])
    assert len(said) == 1 and "torch was 1.0, is " in said[0]


def test_what_can_not_be_made_again_is_refused(first: Path, small_recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        again(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text('{"files": {')
    with pytest.raises(UserError, match="damaged"):
        again(tmp_path / "manifest.json")
    run = Run.create(tmp_path / "run", Recipe.parse(small_recipe))
    run.seal()
    with pytest.raises(UserError, match=r"no prepare; expected the manifest\.json of a run that was trained"):
        again(run.folder / "manifest.json")
    with pytest.raises(UserError, match="is the folder of the manifest"):
        again(first / "manifest.json", first)
    result = CliRunner().invoke(app, ["run", "--from-manifest", str(first / "manifest.json"), "--resume"])
    assert result.exit_code == 2 and "--from-manifest beside --resume" in result.output
