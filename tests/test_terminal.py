from __future__ import annotations

import io

import pytest
from rich.console import Console

from residency.terminal import Terminal


def shown(terminal: bool) -> tuple[Terminal, io.StringIO]:
    output = io.StringIO()
    return Terminal(Console(file=output, force_terminal=terminal, width=120, highlight=False)), output


def test_a_log_gets_a_line_when_a_task_ends() -> None:
    terminal, output = shown(terminal=False)
    for done in range(1, 4):
        terminal.step("Training", done, 3, "steps, loss 1.0")
    assert output.getvalue().splitlines() == ["  Training: 3 of 3 steps, loss 1.0, 0:00"]


def test_a_terminal_gets_a_bar_that_is_closed_again() -> None:
    terminal, output = shown(terminal=True)
    terminal.step("Training", 1, 3, "loss 1.0")
    terminal.say("done")
    assert "Training" in output.getvalue()
    assert terminal.bars is None


def test_square_brackets_of_the_users_are_text_and_not_markup() -> None:
    terminal, output = shown(terminal=False)
    terminal.say("column [bold]x[/bold]")
    terminal.table("T", [("a[b]", "c")])
    assert "column [bold]x[/bold]" in output.getvalue()
    assert "a[b]" in output.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_square_brackets_in_a_task_and_its_detail_are_text_too(terminal: bool) -> None:
    shower, output = shown(terminal)
    shower.step("run[b]", 2, 2, "at [bold]x")
    shower.close()
    assert "run[b]" in output.getvalue()
    assert "at [bold]x" in output.getvalue()


def test_a_task_without_detail_leaves_no_gap() -> None:
    terminal, output = shown(terminal=False)
    terminal.step("Training", 3, 3)
    assert output.getvalue() == "  Training: 3 of 3, 0:00\n"


def test_a_log_says_nothing_between_two_of_its_lines() -> None:
    terminal, output = shown(terminal=False)
    for done in range(1, 100):
        terminal.step("Training", done, 100)
    assert output.getvalue() == ""
