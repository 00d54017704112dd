"""What a run was made on: machine and versions, so that a number can be read with its circumstances."""

from __future__ import annotations

import ctypes
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

# mallopt(3): never map a block for itself, never trim the heap, grow it by 64 MiB at a time
MALLOC = {-4: 0, -1: 2**31 - 1, -2: 64 * 2**20}
LIBRARIES = ("residency", "torch", "transformers", "peft", "accelerate", "tokenizers", "polars", "sacrebleu")


def describe() -> dict[str, str]:
    """The machine and the versions that matter, as short texts."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GiB memory",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **{name: _version(name) for name in LIBRARIES},
    }


def keep_freed_memory() -> bool:
    """Have the C library keep what tensors free, for the next tensors, instead of giving it back to the system.

    Whether it could. glibc maps every large block afresh, and on a CPU the page faults of that took a sixth to a
    quarter of a training step (docs/design.md). It costs about a tenth more memory. Other systems keep memory anyway.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        return all(libc.mallopt(setting, value) for setting, value in MALLOC.items())
    except (OSError, AttributeError):
        return False


def processor() -> str:
    """The processor's name, or at least its family."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
