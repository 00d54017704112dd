"""What a run was made on: machine and versions, so that a number can be read with its circumstances."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

# mallopt(3): map blocks for themselves from the largest threshold on that there is (32 MiB), never trim the heap, grow
# it by 64 MiB at a time
MALLOC = {-3: 32 * 2**20, -1: 2**31 - 1, -2: 64 * 2**20}
CONTROL_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
# Kernels that oneDNN keeps, and what torch's layer over it keeps of each for each thread: every shape of a batch makes
# its own, up to 1 MiB each, and they would keep 1,024.
KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
COMPILERS = ("c++", "g++", "clang++", "cl")
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
    quarter of a training step (docs/design.md). Only the few largest still are, which would leave holes that nothing
    else fills (docs/performance.md). Other systems keep memory anyway. See `give_back_memory`.
    """
    for name, most in KERNELS.items():
        os.environ.setdefault(name, most)
    try:
        libc = ctypes.CDLL("libc.so.6")
        return all(libc.mallopt(setting, value) for setting, value in MALLOC.items())
    except (OSError, AttributeError):
        return False


def give_back_memory(collect: bool = True) -> bool:
    """Give what was freed back to the system, fragments too; whether the C library could. Collects garbage first.

    Kept memory falls into fragments: a block finds no hole among micro-batches of ever other sizes, and a run with
    1.3 GiB alive at most had grown to 6. See `Heap`.
    """
    if collect:
        gc.collect()
    try:
        return bool(ctypes.CDLL("libc.so.6").malloc_trim(0))
    except (OSError, AttributeError):
        return False


class Heap:
    """Gives freed memory back when fragments have made the process larger than its work does.

    Each time costs what is given back anew, page by page: after every step it was 8% of full fine-tuning's speed
    (benchmarks/RESULTS.md). So the size after a step that began with a trimmed heap is what its work takes, and the
    heap is trimmed only when it has grown past that by more than `GROWN`. The first step does not count: the
    optimizer has no state before it.
    """

    GROWN = 1.15

    def __init__(self) -> None:
        self.natural, self.trimmed, self.steps = 0, True, 0

    def settle(self) -> None:
        """Look at the process after a step."""
        now, self.steps = resident(), self.steps + 1
        if self.steps == 1:
            return
        if self.trimmed:
            self.natural, self.trimmed = max(self.natural, now), False
        elif now > self.GROWN * self.natural:
            self.trimmed = give_back_memory(collect=False)


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """Bytes: the largest resident size of this process so far, or since `forget_peak`."""
    if sys.platform == "linux":
        # not getrusage: there a process begins with the size of the one that started it
        status = Path("/proc/self/status").read_text("utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def forget_peak() -> bool:
    """Let `peak_memory` begin anew, at what is held now; whether the system could (Linux, proc(5))."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True


def available_memory() -> int:
    """Bytes that this process may still take: what the system has free or can free, and its control group's rest."""
    free = int(psutil.virtual_memory().available)
    for limit, used in CONTROL_GROUPS:
        try:
            most, now = (int(Path(name).read_text("ascii")) for name in (limit, used))
        except (OSError, ValueError):  # no such group, or "max"
            continue
        free = min(free, max(most - now, 0))
    return free


def compiler() -> str | None:
    """A C++ compiler on the path, which torch.compile needs on a CPU."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


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
