"""What `make audit` says of the packages: none known, some known, or that nobody could be asked."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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


WELL = {"name": "good", "version": "1", "vulns": []}
WEAK = {"name": "weak", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "own", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("listed", "code", "ends"),
    [
        ([WELL], 0, 0),
        ([WELL, UNKNOWN], 0, 0),
        ([WELL, WEAK], 1, 1),
        ([UNKNOWN, UNKNOWN], 0, 3),  # an index of one's own answers, and knows of nothing
        ([], 0, 3),
        (None, 1, 3),
    ],
)
def test_an_audit_that_could_ask_nobody_is_not_taken_for_a_clean_one(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    listed: list[dict[str, Any]] | None, code: int, ends: int,
) -> None:  # fmt: skip
    fake = tmp_path / "pip-audit"
    says = "" if listed is None else json.dumps({"dependencies": listed, "fixes": []})
    fake.write_text(f"#!{sys.executable}\nimport sys\nprint({says!r})\nprint('Could not connect', file=sys.stderr)\n"
                    f"sys.exit({code})\n")  # fmt: skip
    fake.chmod(0o755)
    monkeypatch.setattr(tasks, "tool", lambda *_: str(fake))
    with pytest.raises(SystemExit) as ended:
        tasks.audit()
    told = capsys.readouterr()
    assert ended.value.code == ends
    assert ("NOTHING is known" in told.err) is (ends == 3)
    assert ("weak 2: PYSEC-1, mended by 3" in told.out) is (ends == 1)
    assert ("own: Dependency not found on PyPI" in told.out + told.err) is (UNKNOWN in (listed or []))


def test_the_tools_are_of_one_version_and_lie_apart_from_what_they_look_at(tasks: ModuleType) -> None:
    assert all("==" in tool for tool in (tasks.PIP_AUDIT, tasks.CYCLONEDX))
    assert tasks.TOOLS != ROOT / ".venv"
