from __future__ import annotations

import platform
from importlib.metadata import version

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
