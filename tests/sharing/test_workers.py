"""Prepare in several processes: the same bytes as in one, errors in a line, and nothing left where one is killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from conftest import dialogues, write_jsonl
from residency import pipeline
from residency.data import keep, rowwise
from residency.errors import Interrupted, UserError
from residency.recipe import Recipe
from residency.sharing import Sharing, cluster, workers
from residency.sharing.processes import Process
from residency.sharing.workers import AHEAD

NAMED = {"question": "Description", "answer": "Doctor"}
needs_signals = pytest.mark.skipif(os.name == "nt", reason="kills by signal")


def recipe(source: Path, base: Path, **data: Any) -> Recipe:
    return Recipe.parse({"name": "x", "data": {"source": str(source), **data}, "model": {"base": str(base)}})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


def nothing_is_left(folder: Path) -> None:
    """No data, half or whole, and nothing that says that there is some."""
    assert not list(folder.glob("data/*"))
    assert not (folder / "manifest.json").exists()
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Rows with something for each count: repeats, near-duplicates, personal data, empty and unreadable ones."""
    rows = dialogues(60)
    rows += [rows[3], {**rows[4], "Doctor": rows[4]["Doctor"] + " Call +44 20 7946 0182."}, {**rows[5], "Doctor": " "}]
    rows += [
        {"Description": "Was hilft?", "Doctor": "Bei Fieber helfen vor allem Ruhe, viel Wasser und ein warmes Bett."}
    ]
    rows += [{**rows[6], "Description": f"Q.  Is it {n * 7} <b>days</b>, {n}@example.org?"} for n in range(4)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    source.write_text(source.read_text() + "{torn\n")
    return source


def test_any_number_of_processes_writes_the_same_bytes(
    messy: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowwise, "ROWS", 9)
    monkeypatch.setattr(keep, "TOLD", 9)
    asked = recipe(messy, llama_folder, **NAMED, on_error="skip", drop=["other-languages"])
    for count in (1, 2, 3):
        pipeline.prepare(asked, tmp_path / str(count), sharing=Sharing(count))
    one, two, three = (files(tmp_path / str(count)) for count in (1, 2, 3))
    assert len(one) == 11
    assert one == two == three
    assert json.loads(one["report.json"])["dropped"] == {
        "unreadable": 1,
        "empty answer": 1,
        "exact duplicate": 1,
        "other-languages": 1,
    }


def test_an_error_in_a_row_is_the_same_line_in_any_number_of_processes(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowwise, "ROWS", 3)
    good = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    bad = [{"role": "tool", "content": "x"}]
    talks = [{"messages": bad if row in (14, 20) else good} for row in range(25)]
    asked = recipe(write_jsonl(tmp_path / "talks.jsonl", talks), llama_folder)
    lines = set()
    for count in (1, 2, 3):
        with pytest.raises(UserError) as error:
            pipeline.prepare(asked, tmp_path / "run", sharing=Sharing(count))
        lines.add(str(error.value))
    assert len(lines) == 1
    assert 'row 15: message 1: unknown role "tool"' in lines.pop()
    nothing_is_left(tmp_path / "run")


def test_results_are_in_order_and_few_shards_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    class Counting(list[int]):
        def __iter__(self) -> Iterator[int]:
            nonlocal taken
            for item in super().__iter__():
                taken += 1
                yield item

    found = Sharing(workers=2).over(math.sqrt, Counting(range(40)))
    for number, root in enumerate(found):
        assert root == math.sqrt(number)
        assert taken <= number + AHEAD * 2 + 1


def test_an_error_elsewhere_is_raised_here_with_where_it_came_from() -> None:
    with pytest.raises(ValueError, match="math domain error") as error:
        list(Sharing(workers=2).over(math.sqrt, [4, 9, -1, 16]))
    assert "in answered" in str(error.value.__cause__)


@needs_signals
def test_a_process_that_is_killed_or_ends_is_told() -> None:
    with pytest.raises(Interrupted, match=r"a process of prepare was killed \(signal 9\); .*fewer --workers"):
        list(Sharing(workers=2).over(signal.raise_signal, [signal.SIGKILL, signal.SIGKILL]))
    with pytest.raises(RuntimeError, match="ended by itself, with exit code 7"):
        list(Sharing(workers=2).over(os._exit, [7, 7]))


def test_the_processes_are_gone_when_nobody_takes_their_results() -> None:
    found = Sharing(workers=2).over(math.sqrt, list(range(99)))
    assert next(found) == 0
    started = {child.pid for child in psutil.Process().children()}
    assert len(started) >= 2
    found.close()  # type: ignore[attr-defined]
    assert not started & {child.pid for child in psutil.Process().children()}


def test_processes_are_started_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 16)
    alone = [workers.paying(1.0, 1.0, items) for items in (0, 1, 8, 10, 13, 1000)]
    assert alone == [1, 1, 1, 1, 13, 16]
    assert workers.paying(0.0, 16.0, 1000) == 1, "work that takes every core by itself"
    monkeypatch.setattr(workers, "Process", None)  # none is started
    assert list(Sharing().over(math.sqrt, range(9))) == [math.sqrt(n) for n in range(9)]
    assert list(Sharing(workers=8).over(math.sqrt, [4])) == [2]


# The command, stopped while its processes are at work


@pytest.fixture
def started(llama_folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`residency prepare --workers 2` on rows enough for some seconds, once both processes are there."""
    rows = [{**row, "Doctor": row["Doctor"] * 20, "Description": f"{row['Description']} {n}"}
            for n in range(300) for row in dialogues(60)]  # fmt: skip
    source = write_jsonl(tmp_path / "many.jsonl", rows)
    raw = {"name": "x", "data": {"source": str(source), **NAMED}, "model": {"base": str(llama_folder)}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw), "utf-8")
    command = [sys.executable, "-m", "residency", "prepare", "x.yaml", "--out", "run", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        while len(psutil.Process(process.pid).children()) < 2 and process.poll() is None:
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


@needs_signals
@pytest.mark.fault("SIGKILL of one of its processes", "prepare --workers", "one line; no process and no file is left")
@pytest.mark.parametrize("after", [0.0, 3.0], ids=["as it starts", "at work"])
def test_a_worker_that_is_killed_ends_the_command_in_a_line(
    started: subprocess.Popen[str], tmp_path: Path, after: float
) -> None:
    children = psutil.Process(started.pid).children()
    time.sleep(after)
    if started.poll() is not None:
        pytest.skip("all was done before the kill")
    children[0].kill()
    _, told = started.communicate(timeout=60)
    assert started.returncode == 3, told
    line = told.strip().splitlines()[-1]
    assert line.startswith("residency: stopped: a process of prepare was killed (signal 9)")
    assert line.endswith("go on with `residency prepare RECIPE --out run`")
    assert "Traceback" not in told
    assert not any(child.is_running() for child in children)
    nothing_is_left(tmp_path / "run")


@needs_signals
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_stops_its_workers(
    started: subprocess.Popen[str], tmp_path: Path, sent: signal.Signals
) -> None:
    children = psutil.Process(started.pid).children()
    started.send_signal(sent)
    _, told = started.communicate(timeout=60)
    assert started.returncode == 3, told
    assert told.strip().splitlines()[-1] == "residency: stopped; go on with `residency prepare RECIPE --out run`"
    assert "Traceback" not in told
    assert not any(child.is_running() for child in children)
    nothing_is_left(tmp_path / "run")


@needs_signals
@pytest.mark.fault("SIGKILL of the command", "prepare --workers", "its processes end; nothing half-written passes")
def test_workers_outlive_no_command_that_is_killed(started: subprocess.Popen[str], tmp_path: Path) -> None:
    children = psutil.Process(started.pid).children()
    started.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert not (tmp_path / "run" / "data" / "report.json").exists()


# Ray


def test_ray_that_is_not_installed_is_refused_in_a_line(
    messy: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--ray: Ray is not installed; pip install 'residency\[ray\]'"):
        pipeline.prepare(recipe(messy, llama_folder, **NAMED), tmp_path / "run", sharing=Sharing(ray="local"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def ray() -> Any:
    return pytest.importorskip("ray", reason="Ray is an extra: pip install 'residency[ray]'")


def test_local_ray_writes_the_same_bytes_as_one_process(
    ray: Any, messy: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowwise, "ROWS", 9)
    asked = recipe(messy, llama_folder, **NAMED, on_error="skip")
    pipeline.prepare(asked, tmp_path / "one", sharing=Sharing(1))
    before = signal.getsignal(signal.SIGTERM)
    pipeline.prepare(asked, tmp_path / "ray", sharing=Sharing(2, ray="local"))
    assert files(tmp_path / "one") == files(tmp_path / "ray")
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_in_a_task_is_the_works_own_and_no_cluster_is_one_line(ray: Any) -> None:
    with pytest.raises(ValueError, match="math domain error"):
        list(Sharing(workers=2, ray="local").over(math.sqrt, [4, 9, -1, 16]))
    with pytest.raises(UserError, match=r"--ray 127\.0\.0\.1:1: no cluster can be joined there"):
        list(Sharing(ray="127.0.0.1:1").over(math.sqrt, [4]))


def test_a_process_alone_takes_item_after_item() -> None:
    import pickle

    process = Process(pickle.dumps(math.sqrt), threads=1)
    try:
        assert [process.do(item) for item in (4, 9)] == [2, 3]
    finally:
        process.end()
