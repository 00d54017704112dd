"""What a run was made on: machine and versions, so that a number can be read with its circumstances."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

LIBRARIES = ("residency", "torch", "transformers", "peft", "accelerate", "tokenizers", "polars", "sacrebleu")


def describe() -> dict[str, str]:
    """The machine and the versions that matter, as short texts."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GiB memory",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **{name: _version(name) for name in LIBRARIES},
    }


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
