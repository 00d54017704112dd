"""Two commands on a fresh machine, with nothing but Python and a package index.

    python -m tasks demo    environment, install, the main job on the built-in model and data, the report
    python -m tasks test    the same environment; style, types and the whole test suite but what is slow
    python -m tasks slow    the tests that take minutes: many kills, the wheel in an empty environment
    python -m tasks faults  every test that injects a fault, and the table of docs/reliability.md from what they counted
    python -m tasks audit   what is installed there, held against a database of known weaknesses (pip-audit)
    python -m tasks sbom    what is installed there, as a CycloneDX file: build/sbom.json
    python -m tasks fuzz    inputs made to be wrong, ten minutes each; more in benchmarks/fuzz.py

`make demo`, `make test` and so on call these. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import json
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
TOOLS = ROOT / ".venv-tools"  # what looks at an environment is no part of it
PIP_AUDIT, CYCLONEDX = "pip-audit==2.10.1", "cyclonedx-bom==7.5.0"
SBOM = Path("build") / "sbom.json"
NO_DATABASE = (
    "audit: the database of known weaknesses could not be reached, so that NOTHING is known of these packages; "
    "run it again where it can be reached, or ask another one: make audit SERVICE=osv"
)
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


def audit() -> None:
    """Known weaknesses of what is installed: exit code 0 for none, 1 for some, 3 where nobody could be asked.

    A package that the database does not have is named: an index of one's own may answer and know of none.
    """
    environment()
    service = os.environ.get("SERVICE", "pypi")
    packages = next(path for part in ("lib/python*", "Lib") for path in VENV.glob(f"{part}/site-packages"))
    command = [tool(PIP_AUDIT, "pip-audit"), "--path", str(packages), "--vulnerability-service", service]
    command += ["--timeout", "20", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        listed = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        listed = []
    known = [one for one in listed if "vulns" in one]
    unknown = [f"{one['name']}: {one['skip_reason']}" for one in listed if "vulns" not in one]
    if not known:
        said = unknown[-1:] or done.stderr.strip().splitlines()[-1:]
        print(*[line[:200] for line in said], NO_DATABASE, sep="\n", file=sys.stderr)
        sys.exit(3)
    weak = [(one, found) for one in known for found in one["vulns"]]
    for one, found in weak:
        mended = ", ".join(found["fix_versions"]) or "no version yet"
        print(f"{one['name']} {one['version']}: {found['id']}, mended by {mended}")
    print(f"{len(known)} packages looked up, {len(weak)} known weaknesses; {len(unknown)} not looked up")
    print("\n".join(f"  {text[:150]}" for text in unknown), end="\n" if unknown else "")
    sys.exit(1 if weak else 0)


def sbom() -> None:
    """Every installed package with its version, licence and hash where it is known, as CycloneDX 1.6."""
    environment()
    (ROOT / SBOM).parent.mkdir(exist_ok=True)
    run(tool(CYCLONEDX, "cyclonedx-py"), "environment", str(PYTHON), "--pyproject", "pyproject.toml", "-o", str(SBOM))
    print(f"{SBOM}: what `{VENV.name}` holds")


def fuzz() -> None:
    """Readers, recipes and the server's requests under inputs that are made to be wrong."""
    environment()
    run(PYTHON, str(Path("benchmarks") / "fuzz.py"))


def tool(requirement: str, command: str) -> str:
    """A command of a package that lies in an environment of its own, which is made where it is missing."""
    folder = TOOLS / ("Scripts" if os.name == "nt" else "bin")
    if not (folder / command).exists() and not (folder / f"{command}.exe").exists():
        print(f"Installing {requirement} into {TOOLS}", file=sys.stderr, flush=True)
        if not TOOLS.exists():
            venv.create(TOOLS, with_pip=True)
        quietly = ("--quiet", "--disable-pip-version-check")
        run(folder / PYTHON.name, "-m", "pip", "install", *quietly, requirement)
    return str(folder / command)


def slow() -> None:
    """The tests that are too long for every change."""
    environment()
    run(PYTHON, "-m", "pytest", "-m", "slow")


def faults() -> None:
    """Every fault, the slow ones too, and the table of what came of them."""
    environment()
    counted = ROOT / "build" / "faults.jsonl"
    counted.parent.mkdir(exist_ok=True)
    run(PYTHON, "-m", "pytest", "-m", "fault", "-n", "2", f"--reliability={counted}")
    run(PYTHON, Path("docs") / "reliability.py", counted)


def run(*command: str | Path) -> None:
    """Run a command in the project's folder; its failure is ours."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    tasks = {
        "demo": demo,
        "test": test,
        "slow": slow,
        "faults": faults,
        "audit": audit,
        "sbom": sbom,
        "fuzz": fuzz,
    }
    if len(sys.argv) != 2 or sys.argv[1] not in tasks:
        sys.exit(f"usage: python -m tasks {'|'.join(tasks)}")
    tasks[sys.argv[1]]()
