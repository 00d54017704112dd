"""A hub that hangs, breaks off or answers with errors: bounded tries, and one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import hubs
from hubs import Server, Way, fails, half, hangs

pytestmark = pytest.mark.timeout(600)
OFTEN = 200


@pytest.fixture
def hub(llama_folder: Path) -> Iterator[Server]:
    with hubs.hub(llama_folder) as server:
        yield server


def residency(hub: Server, tmp_path: Path, *arguments: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """A command with this hub in place of Hugging Face's, impatient: a second where ten are usual."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.home,
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_ETAG_TIMEOUT": "1",
    }
    command = [sys.executable, "-m", "residency", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)


def recipe(tmp_path: Path, raw: dict[str, Any], **changes: Any) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({**raw, "model": {"base": "someone/tiny", "max_length": 256}, **changes}))
    return str(file)


def refused(done: subprocess.CompletedProcess[str], what: str) -> str:
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("residency: ")]
    assert what in line, line
    return line


@pytest.mark.fault(
    "the hub sends half a file, twice", "loading a model", "the rest is fetched, and the model is the same"
)
def test_a_file_that_breaks_off_is_taken_up_where_it_ended(
    hub: Server, llama_folder: Path, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    hub.faults = {"tokenizer.json": [half, half]}
    done = residency(hub, tmp_path, "prepare", recipe(tmp_path, small_recipe), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    (found,) = (tmp_path / "cache").rglob("snapshots/*/tokenizer.json")
    assert found.read_bytes() == (llama_folder / "tokenizer.json").read_bytes()
    assert hub.seen.count(f"GET /someone/tiny/resolve/{hubs.COMMIT}/tokenizer.json") == 3
    # What lies in the cache does without the hub, be it switched off or gone.
    shutil.rmtree(tmp_path / "run")
    hub.faults = {"": [fails(503)] * OFTEN}
    done = residency(hub, tmp_path, "prepare", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr


FAULTS: list[tuple[str, str, Way, str]] = [
    ("config.json", "the hub hangs in a file", hangs, "timed out"),
    ("", "the hub hangs in everything", hangs, "timed out"),
    ("tokenizer.json", "the hub always sends half a file", half, "without sending complete message body"),
    ("tokenizer.json", "the hub answers with an error", fails(500), "500"),
    ("config.json", "the hub says that it is asked too much", fails(429), "429"),
]


@pytest.mark.slow
@pytest.mark.fault("the hub hangs, breaks off or fails for good", "loading a model", "bounded tries, then one line")
@pytest.mark.parametrize(("end", "what", "way", "said"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_a_hub_that_stays_ill_is_one_line_after_some_tries(
    end: str, what: str, way: Way, said: str, hub: Server, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    hub.faults = {end: [way] * OFTEN}
    started = time.monotonic()
    done = residency(hub, tmp_path, "prepare", recipe(tmp_path, small_recipe), "--out", str(tmp_path / "run"))
    line = refused(done, "the hub does not give it")
    assert said in line
    assert len(hub.seen) < 60
    assert time.monotonic() - started < 400  # a bound, not a measure: the machine may be busy
    assert not (tmp_path / "run" / "data").exists()


@pytest.mark.fault("the hub answers with an error", "loading a model, a data set", "bounded tries, then one line")
def test_an_error_of_the_hub_is_one_line(
    hub: Server, small_recipe: dict[str, Any], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    hub.faults = {"someone/tiny": [fails(503)] * OFTEN, "someone/data": [fails(500)] * OFTEN}
    run = str(tmp_path / "run")
    refused(residency(hub, tmp_path, "prepare", recipe(tmp_path, small_recipe), "--out", run), "503")
    assert 2 < len([one for one in hub.seen if "someone/tiny" in one]) < 6
    file = recipe(tmp_path, small_recipe, data={"source": "someone/data"}, model=small_recipe["model"])
    refused(residency(hub, tmp_path, "prepare", file, "--out", run), "the hub does not give it")
    assert 2 < len([one for one in hub.seen if "someone/data" in one]) < 6
    record_property("injected", 2)
