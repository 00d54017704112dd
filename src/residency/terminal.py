"""Progress on a terminal: bars with time left where there is one, now and then a line where output goes to a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from residency.progress import clock

BLOCKS = " ▁▂▃▄▅▆▇█"
EVERY = 15.0  # seconds between two lines of a log


class Terminal:
    """Shows what the stages report; everything goes to `console`, which writes to stderr."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars: Bars | None = None
        self.task, self.started, self.shown = "", 0.0, 0.0

    def stage(self, name: str) -> None:
        """A heading."""
        self._end()
        self.console.print(f"\n[bold]{escape(name)}[/bold]")

    def say(self, text: str) -> None:
        """A line under the heading."""
        self._end()
        self.console.print(f"  {escape(text)}", soft_wrap=True)

    def notice(self, text: str, *, urgent: bool = False) -> None:
        """A line that stands apart from what is around it: bright where it is urgent, else dimmed."""
        self._end()
        self.console.print(f"[!] {text}", style="bold yellow" if urgent else "dim", markup=False, soft_wrap=True)

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Names and values under each other."""
        self._end()
        table = Table.grid(padding=(0, 2), pad_edge=True)
        for name, value in rows:
            table.add_row(f"[dim]{escape(name)}[/dim]", escape(value))
        self.console.print(f"  {escape(title)}")
        self.console.print(table)

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        """A bar that moves, or a line every fifteen seconds."""
        if task != self.task:
            self._end()
            self.task, self.started = task, time.monotonic()
            self.shown = self.started
        if self.console.is_terminal:
            self._bar(done, total, detail)
        elif done >= total or time.monotonic() - self.shown >= EVERY:
            self.shown = time.monotonic()
            spent = self.shown - self.started
            left = f", {clock(spent / done * (total - done))} left" if 0 < done < total else ""
            line = f"  {task}: {f'{done} of {total} {detail}'.rstrip()}, {clock(spent)}{left}"
            self.console.print(escape(line), soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was found."""
        self._end()

    def _bar(self, done: int, total: int, detail: str) -> None:
        if self.bars is None:
            columns = (TextColumn("  {task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
            times = (
                TextColumn("{task.fields[detail]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self.bars = Bars(*columns, *times, console=self.console)
            self.bars.add_task(self.task, total=total, detail=detail)
            self.bars.start()
        self.bars.update(self.bars.task_ids[0], completed=done, total=total, detail=detail)

    def _end(self) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = None
        self.task = ""


def plot(values: Sequence[float], width: int = 64, height: int = 10) -> str:
    """Values from left to right as a text of `height` lines, the largest and zero written beside them."""
    signs = BLOCKS if _can_write(BLOCKS) else " .:#"
    width, top = min(width, len(values)), max(*values, 0.0) or 1.0
    heights = [height * values[place * (len(values) - 1) // max(width - 1, 1)] / top for place in range(width)]
    lines = []
    for row in reversed(range(height)):
        label = f"{top:.3g}" if row == height - 1 else "0" if row == 0 else ""
        filled = (min(max(own - row, 0.0), 1.0) for own in heights)
        lines.append(f"{label:>9} |" + "".join(signs[round(share * (len(signs) - 1))] for share in filled).rstrip())
    ends = f"step 1{f'step {len(values):,}':>{max(width - 6, 0)}}" if width > 16 else f"{len(values)} steps"
    return "\n".join([*lines, " " * 11 + ends])


def _can_write(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
