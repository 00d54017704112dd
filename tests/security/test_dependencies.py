"""What `make audit` says of the packages: none known, some known, or that nobody could be asked."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the commands, over an environment with nothing in it."""
    spec = importlib.util.spec_from_file_location("tasks_of_this_checkout", ROOT / "tasks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    monkeypatch.setattr(module, "VENV", tmp_path)
    monkeypatch.setattr(module, "environment", lambda: None)
    return module


@pytest.mark.parametrize(
    ("says", "code", "ends"),
    [
        ("No known vulnerabilities found", 0, 0),
        ("Found 2 known vulnerabilities in 1 package", 1, 1),
        ("ERROR: Could not connect to PyPI's vulnerability feed", 1, 3),
        ("", 1, 3),
    ],
)
def test_an_audit_that_could_ask_nobody_is_not_taken_for_a_clean_one(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    says: str, code: int, ends: int,
) -> None:  # fmt: skip
    fake = tmp_path / "pip-audit"
    fake.write_text(f"#!{sys.executable}\nimport sys\nprint({says!r}, file=sys.stderr)\nsys.exit({code})\n")
    fake.chmod(0o755)
    monkeypatch.setattr(tasks, "tool", lambda *_: str(fake))
    with pytest.raises(SystemExit) as ended:
        tasks.audit()
    assert ended.value.code == ends
    assert ("NOTHING is known" in capsys.readouterr().err) is (ends == 3)


def test_the_tools_are_of_one_version_and_lie_apart_from_what_they_look_at(tasks: ModuleType) -> None:
    assert all("==" in tool for tool in (tasks.PIP_AUDIT, tasks.CYCLONEDX))
    assert tasks.TOOLS != ROOT / ".venv"
