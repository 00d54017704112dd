"""Pictures of a run as SVG texts that take the page's own colours, in light and in dark."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SIZE = (5.4, 2.9)  # inches; small enough that its letters can still be read on a phone
# Stand-ins, replaced by the page's own colours when the picture is written.
COLOURS = {"#010101": "currentColor", "#020202": "var(--line)", "#030303": "var(--tuned)", "#040404": "var(--base)"}
INK, LINE, TUNED, BASE = COLOURS
# A picture that is looked at outside the page brings its own colours, for light and for dark, and its own ground.
_LIGHT_AND_DARK = """<style>
svg { --line: #d5dbe1; --tuned: #0b7285; --base: #c2691a; color: #1b2733; background: #ffffff; }
@media (prefers-color-scheme: dark) {
  svg { --line: #33414d; --tuned: #4fc3d9; --base: #f0a35c; color: #e4eaef; background: #19232b; }
}
</style>"""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def loss(metrics: Sequence[dict[str, Any]], best_step: int | None = None, unit: str = "loss (nats a token)") -> str:
    """Training and validation loss over the steps; the best validation is marked."""
    steps = [(row["step"], row["loss"]) for row in metrics if row.get("loss") is not None]
    validations = [(row["step"], row["validation_loss"]) for row in metrics if "validation_loss" in row]
    with mpl.rc_context(STYLE):
        figure, axes = _axes("step", unit)
        axes.plot(*_columns(steps), color=BASE, linewidth=1.2, label="training")
        if validations:
            axes.plot(*_columns(validations), color=TUNED, linewidth=2, marker="o", markersize=3.5, label="validation")
            marked = [point for point in validations if point[0] == best_step]
            axes.plot(*_columns(marked), color=TUNED, marker="o", markersize=9, fillstyle="none", linewidth=0)
        axes.legend(loc="upper right")
        return svg(figure, "loss")


def rewards(points: dict[str, list[tuple[float, float]]]) -> str:
    """The rewards of chosen and rejected answers over the steps."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes("step", "reward")
        for (name, own), colour in zip(points.items(), (TUNED, BASE), strict=True):
            axes.plot(*_columns(own), color=colour, linewidth=1.8, marker="o", markersize=3.5, label=name)
        axes.axhline(0, color=INK, linewidth=0.8, linestyle="--")
        axes.legend(loc="best")
        return svg(figure, "rewards")


def ratings(systems: Sequence[str], rated: dict[str, list[dict[str, float]]]) -> str:
    """The systems under each other, each rating a point with its interval; a rating has value, low and high."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes("rating", "", (SIZE[0], 1.2 + 0.5 * len(systems)))
        for (name, own), colour, shift in zip(rated.items(), (TUNED, BASE), (-0.12, 0.12), strict=True):
            values = [one["value"] for one in own]
            # A mean over orders of votes may lie a hair outside the interval of single ones.
            reach = [
                [max(one["value"] - one["low"], 0) for one in own],
                [max(one["high"] - one["value"], 0) for one in own],
            ]
            places = [place + shift for place in range(len(systems))]
            axes.errorbar(values, places, xerr=reach, color=colour, fmt="o", markersize=5, elinewidth=1.8, label=name)
        axes.set_yticks(range(len(systems)), labels=systems)
        axes.set_ylim(len(systems) - 0.5, -0.5)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.35 / (1 + 0.5 * len(systems))), ncols=2)
        return svg(figure, "ratings")


def learning_rate(metrics: Sequence[dict[str, Any]]) -> str:
    """The learning rate at each step."""
    steps = [(row["step"], row["learning_rate"]) for row in metrics if "learning_rate" in row]
    with mpl.rc_context(STYLE):
        figure, axes = _axes("step", "learning rate")
        axes.plot(*_columns(steps), color=TUNED, linewidth=1.8)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        axes.set_ylim(bottom=0)
        return svg(figure, "rate")


def lengths(histogram: dict[str, list[float]], limit: int) -> str:
    """How long the examples are in tokens; a line shows the limit where it is near."""
    edges, counts = histogram["edges"], histogram["counts"]
    widths = [high - low for low, high in itertools.pairwise(edges)]
    with mpl.rc_context(STYLE):
        figure, axes = _axes("tokens in prompt and answer", "rows")
        axes.bar(edges[:-1], counts, width=widths, align="edge", color=TUNED, edgecolor="none", alpha=0.85)
        if limit < 1.5 * edges[-1]:
            axes.axvline(limit, color=BASE, linewidth=1.5, linestyle="--")
            axes.text(limit, axes.get_ylim()[1], " max_length ", ha="right", va="top")
        return svg(figure, "lengths")


def alone(picture: str) -> str:
    """A picture that brings its own colours, for use outside the page."""
    colours = {"var(--line)": "#d5dbe1", "var(--tuned)": "#0b7285", "var(--base)": "#c2691a", "currentColor": "#1b2733"}
    for variable, colour in colours.items():
        picture = picture.replace(variable, colour)
    return (
        picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) if "xmlns=" not in picture else picture
    )


def _axes(x: str, y: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure, axes


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def svg(figure: Figure, salt: str) -> str:
    """The figure as an SVG element. `salt` keeps the ids of several pictures in one page apart."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, colour in COLOURS.items():
        text = text.replace(stand_in, colour)
    return text


def light_and_dark(picture: str) -> str:
    """A picture for use outside the page, in the reader's light or dark and on its own ground."""
    head, rest = picture.split(">", 1)
    return f"{head}>\n{_LIGHT_AND_DARK}{rest}"
