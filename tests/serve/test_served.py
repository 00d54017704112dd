from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from residency.serve.served import aside

COUNTED = """
import os, time, torch
from residency.serve.served import aside

def work():
    return float(torch.ones(1 << 22).add(1).sum())

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
assert aside(work) == 2 << 22
end = time.monotonic() + 10
while threads() > before and time.monotonic() < end:
    time.sleep(0.01)
beside = threads() - before
work()
print(beside, threads() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux shows them")
def test_what_is_made_aside_leaves_no_team_of_threads_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNTED],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    beside, here = map(int, done.stdout.split())
    assert beside == 0
    assert here > 0  # the control: a thread that lives on keeps its team


def test_an_error_comes_through() -> None:
    def fail() -> None:
        raise ValueError("for the test")

    with pytest.raises(ValueError, match="for the test"):
        aside(fail)
