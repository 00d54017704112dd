"""Quality against cost: a point a way, with its interval and a label that covers no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from residency.report.figures import BASE, INK, STYLE, TUNED, svg

SIZE = (5.4, 3.9)  # inches
NEAR_ZERO = 0.1  # seconds up to which the axis is linear, so that nothing has a place of its own
RADII = (10, 16, 24, 34, 46, 60)  # points between a mark and its label, tried in this order
MARK = 5  # points around a mark that no label may cover
BARS = 0.2  # what covering an interval's line counts, against covering a mark or a label


@dataclass(frozen=True)
class Point:
    """A way in the picture: what it costs (seconds), its score with the ends of its interval, and its colour."""

    label: str
    cost: float
    mean: float
    low: float
    high: float
    trained: bool
    used: bool = False


def trade(points: Sequence[Point], cost: str, quality: str, *, from_nothing: bool, salt: str) -> str:
    """The picture as SVG; `from_nothing` draws the costs on a logarithmic axis that has a zero."""
    with mpl.rc_context(STYLE):
        return svg(draw(points, cost, quality, from_nothing=from_nothing)[0], salt)


def draw(
    points: Sequence[Point], cost: str, quality: str, *, from_nothing: bool = False
) -> tuple[Figure, list[Annotation]]:
    """The figure and its labels, in the order of the points."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(cost)
    axes.set_ylabel(quality)
    if from_nothing:
        axes.set_xscale("symlog", linthresh=NEAR_ZERO)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlim(-0.03, 4 * max(NEAR_ZERO, *(point.cost for point in points)))
    else:
        axes.set_xlim(0, 1.25 * max(point.cost for point in points))
    for point in points:
        colour = TUNED if point.trained else BASE
        bars = [[point.mean - point.low], [point.high - point.mean]]
        axes.errorbar(point.cost, point.mean, yerr=bars, color=colour, marker="o", markersize=6, linewidth=1.1)
        if point.used:
            axes.plot(point.cost, point.mean, marker="o", markersize=12, fillstyle="none", color=INK)
    axes.margins(y=0.12)
    return figure, _label(figure, axes, points)


def _label(figure: Figure, axes: Any, points: Sequence[Point]) -> list[Annotation]:
    """Labels, each within the axes and clear of marks and of other labels, as far as there is room."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()  # the layout is settled now, and labels are kept out of it
    scale = figure.dpi / 72
    places = [axes.transData.transform((point.cost, point.mean)) for point in points]
    taken = [Bbox.from_extents(*(place - MARK * scale), *(place + MARK * scale)) for place in places]
    bars = [_bar(axes, point) for point in points]
    found = []
    for point in points:
        tried: list[tuple[float, int, Bbox, tuple[tuple[float, float], str, bool]]] = []
        for offset, align, away in _offsets():
            label = _annotation(axes, point, offset, align, away)
            label.update_positions(canvas.get_renderer())
            box = Text.get_window_extent(label, canvas.get_renderer())  # without the line that leads to the mark
            hidden = _covered(box, taken, axes.bbox) + BARS * sum(_area(Bbox.intersection(box, bar)) for bar in bars)
            tried.append((hidden, len(tried), box, (offset, align, away)))
            label.remove()
            if tried[-1][0] == 0:
                break
        _, _, box, (offset, align, away) = min(tried, key=lambda one: one[:2])
        found.append(_annotation(axes, point, offset, align, away))
        taken.append(box)
    return found


def _bar(axes: Any, point: Point) -> Bbox:
    """Where a point's interval is drawn, a little wider than its line."""
    ends = axes.transData.transform([(point.cost, point.low), (point.cost, point.high)])
    return Bbox.from_extents(ends[0][0] - 2, ends[0][1], ends[1][0] + 2, ends[1][1])


def _offsets() -> Iterator[tuple[tuple[float, float], str, bool]]:
    """Where a label may stand: the offset in points, its alignment, and whether it is so far that a line must lead."""
    for radius in RADII:
        for turn in range(16):
            across, up = cos(turn * pi / 8), sin(turn * pi / 8)
            align = "left" if across > 0.3 else "right" if across < -0.3 else "center"
            yield (radius * across, radius * up), align, radius > RADII[1]


def _annotation(axes: Any, point: Point, offset: tuple[float, float], align: str, away: bool) -> Annotation:
    label: Annotation = axes.annotate(
        point.label,
        (point.cost, point.mean),
        xytext=offset,
        textcoords="offset points",
        ha=align,
        va="center",
        fontsize=9,
        arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4} if away else None,
    )
    label.set_in_layout(False)
    return label


def _covered(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> float:
    """Square pixels of a label that lie on something else, or outside of the axes."""
    covered = sum(_area(Bbox.intersection(box, other)) for other in taken)
    return covered + box.width * box.height - _area(Bbox.intersection(box, inside))


def _area(box: Bbox | None) -> float:
    return float(box.width * box.height) if box is not None else 0.0
