from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import torch

from residency import environment


def test_it_names_the_machine_and_the_versions_installed() -> None:
    found = environment.describe()
    assert found["torch"] == version("torch")
    assert "cores" in found["machine"]
    assert environment._version("no-such-package") == "not installed"


def test_freed_memory_is_kept_where_the_c_library_is_glibc() -> None:
    assert environment.keep_freed_memory() is (platform.libc_ver()[0] == "glibc")
    large = torch.ones(16_000_000)
    assert float(large.sum()) == 16_000_000


def test_the_peak_can_be_forgotten_and_grows_again() -> None:
    large = torch.ones(2**25)
    before = environment.peak_memory()
    assert before >= environment.resident() - 2**20
    del large
    environment.give_back_memory()
    if environment.forget_peak():
        assert environment.peak_memory() < before
        torch.ones(2**25)
        assert environment.peak_memory() > environment.resident() - 2**20


def test_available_memory_is_some_and_not_more_than_there_is() -> None:
    assert 0 < environment.available_memory() <= psutil.virtual_memory().total


def test_a_control_group_narrows_what_is_available(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    most, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(environment, "CONTROL_GROUPS", ((str(most), str(used)), ("absent", "absent")))
    used.write_text("1000\n")
    most.write_text("5000\n")
    assert environment.available_memory() == 4000
    most.write_text("max\n")
    assert environment.available_memory() > 4000


def test_a_heap_is_trimmed_once_a_step_leaves_it_much_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([1000, 1050, 1099, 1200, 1020, 1150, 900])
    trimmed: list[int] = []
    monkeypatch.setattr(environment, "resident", lambda: next(sizes))
    monkeypatch.setattr(environment, "give_back_memory", lambda: not trimmed.append(1))
    heap = environment.Heap()
    seen = [heap.after_step() for _ in range(7)]
    assert seen == [False, False, False, True, False, True, False]
    assert heap.needed == 1020  # what a step on a fresh heap needs, the most of them


def test_a_step_on_a_fresh_heap_may_need_more(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([1000, 2000, 2050])
    monkeypatch.setattr(environment, "resident", lambda: next(sizes))
    heap = environment.Heap()
    heap.after_step()
    heap.between()
    assert not heap.after_step()
    assert heap.needed == 2000
    assert not heap.after_step()
