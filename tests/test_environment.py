from __future__ import annotations

import os
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


def test_freed_memory_is_kept_where_the_c_library_is_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    assert environment.keep_freed_memory() is (platform.libc_ver()[0] == "glibc")
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"  # the user's own stays
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "128"
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


def test_what_was_freed_goes_back_to_the_system() -> None:
    environment.keep_freed_memory()
    blocks = [torch.ones(250_000) for _ in range(200)]
    held = blocks[::2]  # what stays keeps the heap in pieces
    full = environment.resident()
    del blocks
    if environment.give_back_memory(collect=False):
        assert environment.resident() < full - 50_000_000
    assert all(float(block[0]) == 1 for block in held)


def test_a_heap_is_trimmed_only_when_it_has_outgrown_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([70, 100, 114, 116, 108, 120, 125])
    trims: list[bool] = []
    monkeypatch.setattr(environment, "resident", lambda: next(sizes))
    monkeypatch.setattr(environment, "give_back_memory", lambda collect: trims.append(collect) or True)
    heap = environment.Heap()
    after = []
    for _ in range(7):
        heap.settle()
        after.append(len(trims))
    # 70 does not count, 100 is natural, 116 is over 115; then 108 is natural, and 125 is over 124.2
    assert after == [0, 0, 0, 1, 1, 1, 2]
