from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from residency import checkup, environment


def looks() -> dict[str, checkup.Look]:
    return {one.name: one for one in checkup.checkup()}


def test_it_finds_versions_device_memory_and_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path / "none"))
    found = looks()
    assert found["torch"] == checkup.Look("torch", version("torch"))
    assert "threads" in found["device"].found or "GiB" in found["device"].found
    assert "no built-in model yet" in found["cache"].found
    (tmp_path / "none" / "smollm2-135m-instruct").mkdir(parents=True)
    (tmp_path / "none" / "smollm2-135m-instruct" / "config.json").write_text("{}")
    assert "smollm2-135m-instruct" in looks()["cache"].found


def test_a_missing_or_old_package_comes_with_the_command_that_brings_it() -> None:
    missing = checkup._library(Requirement("no-such-package>=2"))
    assert (missing.found, missing.advice) == ("not installed", "pip install 'no-such-package>=2'")
    assert checkup._library(Requirement("torch>=99")).advice == "pip install 'torch>=99'"
    assert checkup._library(Requirement("torch>=2")).advice == ""


def test_an_extra_is_looked_at_by_itself() -> None:
    names = [one.name for one in checkup._needed("track")]
    assert names == ["tensorboard"]
    assert "tensorboard" not in [one.name for one in checkup._needed()]


def test_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "available_memory", lambda: 2**30)
    assert "residency plan" in looks()["memory"].advice


def test_the_schema_knows_every_section_and_refuses_unknown_keys() -> None:
    done = subprocess.run([sys.executable, "-m", "residency", "schema"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {"data", "model", "prompt", "train", "evaluate"} <= set(found["properties"])
    assert found["additionalProperties"] is False
    assert found["$defs"]["TrainSection"]["properties"]["epochs"]["description"]
