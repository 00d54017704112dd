from __future__ import annotations

import inspect

import pytest
from rich.console import Console

from residency.progress import Progress, Silent
from residency.terminal import Terminal

REPORTS = [name for name, value in vars(Progress).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("shower", [Silent, Terminal])
def test_whoever_shows_progress_takes_everything_that_a_stage_reports(shower: type) -> None:
    assert REPORTS == ["stage", "say", "table", "step"]
    for name in REPORTS:
        expected = inspect.signature(getattr(Progress, name)).parameters
        assert list(inspect.signature(getattr(shower, name)).parameters) == list(expected)


def test_a_library_call_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    def report(progress: Progress) -> None:
        progress.stage("Train")
        progress.say("a fact")
        progress.table("facts", [("a", "b")])
        progress.step("Training", 1, 2)

    report(Silent())
    assert capfd.readouterr() == ("", "")
    report(Terminal(Console(stderr=True)))
    assert "a fact" in capfd.readouterr().err
