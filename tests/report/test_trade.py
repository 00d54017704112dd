from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from residency.report.trade import Point, draw, trade
from residency.study.ways import WAYS

# Seconds to build, as a study has them: most ways take next to nothing, so that their marks lie close together.
BUILT = (0.0, 0.0, 0.04, 0.05, 9.0, 9.1, 240.0, 390.0, 390.1)


def points(costs: tuple[float, ...] = BUILT, spread: float = 0.05) -> list[Point]:
    return [
        Point(way.label, cost, 2 + spread * place, 1.9, 2.6, way.trains, used=way.name == "lora")
        for place, (way, cost) in enumerate(zip(WAYS.values(), costs, strict=True))
    ]


@pytest.mark.parametrize("spread", [0.05, 0.01, 0.0])
@pytest.mark.parametrize("from_nothing", [True, False])
def test_no_label_covers_another_and_none_leaves_the_picture(spread: float, from_nothing: bool) -> None:
    costs = BUILT if from_nothing else (2.0, 2.1, 2.9, 3.0, 3.0, 3.1, 1.8, 1.9, 2.8)
    figure, labels = draw(points(costs, spread), "seconds", "score", from_nothing=from_nothing)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # The extent of an annotation has its line in it; the text alone is what must not be covered.
    texts = [Text.get_window_extent(label, canvas.get_renderer()) for label in labels]
    assert [label.get_text() for label in labels] == [way.label for way in WAYS.values()]
    for one, other in itertools.combinations(texts, 2):
        assert not one.overlaps(other)
    frame = figure.bbox
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in texts)


def test_the_picture_takes_the_pages_colours_and_names_every_way() -> None:
    picture = trade(points(), "seconds to build", "answer NLL", from_nothing=True, salt="build")
    assert picture.startswith("<svg")
    assert "var(--tuned)" in picture and "var(--base)" in picture
    assert all(way.label in picture for way in WAYS.values())
    assert "seconds to build" in picture
