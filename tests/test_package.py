"""The package: what a wheel and a source archive hold, and that the wheel works far from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "residency"
LARGEST = 1_000_000  # bytes of the wheel, as docs/index.md says

pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, as an installer does: what the archive lacks, the wheel lacks."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as packed:
        packed.extraction_filter = getattr(tarfile, "data_filter", None)  # which Python has from 3.11.4 on
        packed.extractall(folder)
    (unpacked,) = folder.iterdir()
    return build(unpacked, "wheel", tmp_path_factory.mktemp("wheel"))


def build(root: Path, target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = [path for path in folder.iterdir() if path.is_file()]
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own, with the wheel in it and its dependencies borrowed; where its programs are."""
    folder = tmp_path_factory.mktemp("installed")
    programs = environment(folder)
    # A folder that a .pth file names is searched for modules, but not for .pth files: the checkout stays out of it.
    (site,) = folder.rglob("site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    install(programs, "--no-deps", "--no-index", str(wheel))
    return programs


def environment(folder: Path) -> Path:
    """An empty environment; the folder of its programs."""
    venv.create(folder, with_pip=False)
    return folder / ("Scripts" if os.name == "nt" else "bin")


def install(programs: Path, *what: str, timeout: float = 120) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", *what], check=True, timeout=timeout)


def outside() -> dict[str, str]:
    """The environment variables without what leads to the checkout."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "HF_HUB_OFFLINE": "1"}


def run(programs: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program as a user has it: its own command, from another folder, with nothing of the checkout on the path."""
    command = [str(programs / "residency"), *arguments]
    return subprocess.run(command, cwd=cwd, env=outside(), capture_output=True, text=True, check=False, timeout=250)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as packed:
        return set(packed.namelist())


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    here = {
        f"residency/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in names(wheel) if not name.startswith("residency-")}
    assert found == here


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "assets/clinic.jsonl",
        "assets/recipes/doctor.yaml",
        "assets/recipes/support.yaml",
        "assets/machines.yaml",
        "report/page.html",
        "report/style.css",
        "evaluate/table.html",
        "export/card.md",
    ],
)
def test_what_the_program_reads_at_run_time_ships(wheel: Path, name: str) -> None:
    assert f"residency/{name}" in names(wheel)


def test_the_wheel_is_small_and_says_how_it_is_called_and_licensed(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST
    (about,) = {name.split("/")[0] for name in names(wheel) if name.startswith("residency-")}
    with zipfile.ZipFile(wheel) as packed:
        assert "residency = residency.cli:main" in packed.read(f"{about}/entry_points.txt").decode()
        metadata = packed.read(f"{about}/METADATA").decode()
    assert f"{about}/licenses/LICENSE" in names(wheel)
    assert "License-Expression: Apache-2.0" in metadata
    assert "Provides-Extra: docs" in metadata


def test_the_source_archive_has_tests_docs_recipes_and_no_rubbish(archive: Path) -> None:
    with tarfile.open(archive) as packed:
        found = {name.partition("/")[2] for name in packed.getnames()}
    for name in (
        "tests/conftest.py",
        "docs/index.md",
        "docs/generate.py",
        "recipes/medquad.yaml",
        "mkdocs.yml",
        "tasks.py",
    ):
        assert name in found
    assert not [name for name in found if "__pycache__" in name or name.startswith(("runs/", ".venv/", "build/"))]


def test_the_installed_program_is_the_wheels_and_says_its_version(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "--version")
    assert done.stdout.startswith("residency 0."), done.stderr
    where = subprocess.run(
        [str(installed / "python"), "-c", "import residency; print(residency.__file__)"],
        cwd=tmp_path,
        env=outside(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(installed.parent)


def test_the_installed_program_prepares_its_built_in_data_from_another_folder(
    installed: Path, llama_folder: Path, tmp_path: Path
) -> None:
    rows = [
        {"question": f"What is number {n}?", "answer": f"It is the {n}th of them, after {n - 1}."} for n in range(30)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    done = run(installed, tmp_path, "init", "mine", "--data", "rows.jsonl")
    assert done.returncode == 0, done.stderr
    assert "question: question" in (tmp_path / "mine.yaml").read_text("utf-8")
    base = f"model.base={llama_folder}"
    done = run(installed, tmp_path, "prepare", "--set", base, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["data"]["rows_in"] == 378
    assert (tmp_path / "runs" / "doctor" / "data" / "train.parquet").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_with_the_dependencies_that_it_names_trains_a_model_in_an_empty_environment(
    wheel: Path, llama_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    programs = environment(tmp_path / "empty")
    install(programs, "--constraint", str(ROOT / "constraints.txt"), str(wheel), timeout=1500)
    assert run(programs, tmp_path, "doctor").returncode == 0
    settings = [
        *(f"data.{part}" for part in (f"source={data_file}", "question=Description", "answer=Doctor")),
        *(f"train.{part}" for part in ("max_steps=2", "examples_per_step=4")),
        *(f"evaluate.{part}" for part in ("questions=2", "max_new_tokens=4")),
        f"model.base={llama_folder}",
    ]
    options = [part for one in settings for part in ("--set", one)]
    done = run(programs, tmp_path, "run", *options, "--out", "runs/small")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "small" / "report.html").is_file()
    assert run(programs, tmp_path, "verify", "runs/small").returncode == 0
