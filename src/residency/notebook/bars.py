"""Progress and curves where a notebook shows them: plain HTML that is written anew in its place, without widgets.

rich's and tqdm's bars need ipywidgets in a notebook, which not every viewer has; without it they show nothing.
"""

from __future__ import annotations

import time
import warnings
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from residency.errors import UserError
from residency.progress import clock
from residency.report import figures

with warnings.catch_warnings():  # tqdm, which transformers imports, would ask for ipywidgets, which nothing here needs
    warnings.filterwarnings("ignore", message="IProgress not found")
    from transformers import TrainerCallback

EVERY = 0.2  # seconds between two pictures of a bar
EVERY_CURVE = 2.0  # and of the curves, which take longer to draw


@dataclass(frozen=True)
class Shown:
    """What stands in the notebook: as HTML, and as text where HTML is not shown."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


class Place:
    """A place in a cell's output that is written anew.

    Raises:
        UserError: IPython is not installed: there is no notebook to show anything in.
    """

    def __init__(self, shown: Shown) -> None:
        try:
            from IPython.display import display
        except ImportError:
            raise UserError(
                "residency.notebook: IPython is not installed", "a notebook", "pip install ipykernel"
            ) from None
        self._handle: Any = display(shown, display_id=True)

    def show(self, shown: Shown) -> None:
        """Write it anew; without a kernel, as in a plain IPython shell, nothing can be."""
        if self._handle is not None:
            self._handle.update(shown)


class Bars:
    """Shows what the stages report: a heading for each stage, lines and small tables, and one bar at a time."""

    def __init__(self) -> None:
        self._task, self._started, self._drawn = "", 0.0, 0.0
        self._place: Place | None = None

    def stage(self, name: str) -> None:
        """A heading."""
        self._end()
        Place(Shown(f"<h4>{escape(name)}</h4>", name))

    def say(self, text: str) -> None:
        """A line under the heading."""
        self._end()
        Place(Shown(f"<div>{escape(text)}</div>", text))

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        """Names and values under each other."""
        self._end()
        lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
        text = "\n".join([title, *(f"  {name}: {value}" for name, value in rows)])
        Place(Shown(f"<table><caption>{escape(title)}</caption>{lines}</table>", text))

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        """A bar that moves, with the time that is spent and the time that is left."""
        now = time.monotonic()
        if task != self._task:
            self._end()
            self._task, self._started = task, now
        if self._place is not None and done < total and now - self._drawn < EVERY:
            return
        shown = bar(task, done, total, detail, now - self._started)
        self._drawn = now
        if self._place is None:
            self._place = Place(shown)
        else:
            self._place.show(shown)

    def _end(self) -> None:
        self._task, self._place = "", None


def bar(task: str, done: int, total: int, detail: str, seconds: float) -> Shown:
    """A bar at one moment."""
    left = f", {clock(seconds / done * (total - done))} left" if 0 < done < total else ""
    text = f"{task}: {f'{done} of {total} {detail}'.rstrip()}, {clock(seconds)}{left}"
    return Shown(
        f'<div><progress value="{done}" max="{max(total, 1)}" style="width: 16em; vertical-align: middle"></progress> '
        f"{escape(text)}</div>",
        text,
    )


class Curves(TrainerCallback):
    """Training and validation loss as they grow; hand it to `pipeline.train(callbacks=[Curves()])`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._place: Place | None = None
        self._drawn = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        """A step's loss, or a validation's."""
        names = {"loss": "loss", "eval_loss": "validation_loss"}
        found = {names[key]: value for key, value in (logs or {}).items() if key in names}
        if found:
            self.rows.append({"step": state.global_step, **found})
            if time.monotonic() - self._drawn >= EVERY_CURVE:
                self._draw()

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """The last picture."""
        if self.rows:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        last = " and ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in self._last().items())
        shown = picture(figures.loss(self.rows), f"Curves up to step {self.rows[-1]['step']}: {last}")
        if self._place is None:
            self._place = Place(shown)
        else:
            self._place.show(shown)

    def _last(self) -> dict[str, float]:
        """The newest value of each curve."""
        return {name: value for row in self.rows for name, value in row.items() if name != "step"}


def picture(svg: str, text: str) -> Shown:
    """A picture as an image of its own, whose colours reach nothing else on the page."""
    data = b64encode(figures.light_and_dark(svg).encode()).decode()
    return Shown(f'<img alt="{escape(text)}" src="data:image/svg+xml;base64,{data}">', text)
