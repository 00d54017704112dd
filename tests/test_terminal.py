from __future__ import annotations

import io

import pytest
from rich.console import Console

from residency.terminal import Terminal, plot


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


def test_a_plot_shows_the_peak_at_the_top_and_what_falls_falls() -> None:
    lines = plot([4.0, 3.0, 2.0, 1.0], height=4).splitlines()
    assert [line.partition("|")[2].strip() for line in lines[:4]] == ["█", "██", "███", "████"]
    assert lines[0].split("|")[0].strip() == "4"
    assert lines[4].strip() == "4 steps"


def test_a_long_curve_is_drawn_in_the_width_that_there_is() -> None:
    lines = plot([float(step) for step in range(1000)], width=40, height=5).splitlines()
    assert max(len(line) for line in lines) <= 40 + 11
    assert lines[-1].split() == ["step", "1", "step", "1,000"]
    assert plot([0.0]).count("█") == 0
    assert plot([1.0], height=3).count("█") == 3


def test_a_terminal_without_block_signs_gets_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert plot([4.0, 2.0], height=2).isascii()


def test_a_notice_is_marked_where_there_is_no_colour_and_bright_where_it_is_urgent() -> None:
    terminal, output = shown(terminal=False)
    terminal.notice("Call [now].", urgent=True)
    assert output.getvalue() == "[!] Call [now].\n"
    terminal, output = shown(terminal=True)
    terminal.notice("Call now.", urgent=True)
    assert "\x1b[1;33m[!] Call now." in output.getvalue()
