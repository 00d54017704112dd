"""Two commands on a fresh machine, with nothing but Python and a package index.

    python -m tasks demo    environment, install, the main job on the built-in model and data, the report
    python -m tasks test    the same environment; style, types and the whole test suite but what is slow
    python -m tasks slow    the tests that take minutes: many kills, the wheel in an empty environment
    python -m tasks faults  every test that injects a fault, and the table of docs/reliability.md from what they counted

`make demo`, `make test` and so on call these. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "installed"
DECIDES = (ROOT / "pyproject.toml", ROOT / "constraints.txt")


def environment() -> None:
    """Make `.venv` and install the project into it, unless that is done and nothing has changed since."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"residency needs Python 3.10 to 3.13, this is {sys.version.split()[0]}")
    if STAMP.exists() and STAMP.stat().st_mtime >= max(path.stat().st_mtime for path in DECIDES):
        return
    print(f"Installing into {VENV} (a few minutes the first time)", file=sys.stderr, flush=True)
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    quietly = ("--quiet", "--disable-pip-version-check")
    run(PYTHON, "-m", "pip", "install", *quietly, "-c", "constraints.txt", "-e", ".[dev]")
    STAMP.touch()


def demo() -> None:
    """The main job, from the built-in data to the report."""
    environment()
    run(PYTHON, "-m", "residency", "run", "--out", str(Path("runs") / "doctor"))


def test() -> None:
    """Style, types, tests."""
    environment()
    run(PYTHON, "-m", "ruff", "check")
    run(PYTHON, "-m", "ruff", "format", "--check")
    run(PYTHON, "-m", "mypy")
    # Files whole, so that what a file's tests share is made once; two processes, since each holds torch.
    run(PYTHON, "-m", "pytest", "-n", "2", "--dist", "loadfile")


def slow() -> None:
    """The tests that are too long for every change."""
    environment()
    run(PYTHON, "-m", "pytest", "-m", "slow")


def faults() -> None:
    """Every fault, the slow ones too, and the table of what came of them."""
    environment()
    counted = ROOT / "build" / "faults.jsonl"
    counted.parent.mkdir(exist_ok=True)
    run(PYTHON, "-m", "pytest", "-m", "fault", "--reliability", counted)
    run(PYTHON, Path("docs") / "reliability.py", counted)


def run(*command: str | Path) -> None:
    """Run a command in the project's folder; its failure is ours."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    tasks = {"demo": demo, "test": test, "slow": slow, "faults": faults}
    if len(sys.argv) != 2 or sys.argv[1] not in tasks:
        sys.exit(f"usage: python -m tasks {'|'.join(tasks)}")
    tasks[sys.argv[1]]()
