from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from residency import notebook
from residency.notebook import bars


class Cell:
    """What a notebook's cell shows: places in order, each with all that stood in it."""

    def __init__(self) -> None:
        self.places: list[list[bars.Shown]] = []

    def place(self, shown: bars.Shown) -> Any:
        pictures = [shown]
        self.places.append(pictures)
        return type("Place", (), {"show": staticmethod(pictures.append)})


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    made = Cell()
    monkeypatch.setattr(bars, "Place", made.place)
    return made


def test_a_bar_is_written_anew_in_its_place_and_the_next_task_has_another(cell: Cell) -> None:
    shower = notebook.Bars()
    for done in range(1, 51):
        shower.step("Training", done, 50, "steps")
    shower.step("Answers", 1, 2)
    first, second = cell.places
    assert first[-1].text.startswith("Training: 50 of 50 steps, 0:0") and 'value="50" max="50"' in first[-1].html
    assert len(first) < 10  # not one picture a step
    assert second[0].text.startswith("Answers: 1 of 2")


def test_what_users_wrote_is_text_and_not_markup(cell: Cell) -> None:
    shower = notebook.Bars()
    shower.stage("<b>")
    shower.say("column <script>")
    shower.table("T<i>", [("<a>", "<c>")])
    shower.step("<u>", 1, 2, "<s>")
    html = "".join(place[-1].html for place in cell.places)
    assert not any(tag in html for tag in ("<b>", "<script>", "<i>", "<a>", "<c>", "<u>", "<s>"))
    assert [place[-1].text.splitlines()[0] for place in cell.places[:3]] == ["<b>", "column <script>", "T<i>"]


def test_curves_grow_in_one_place_and_end_with_the_last_step(cell: Cell) -> None:
    curves, state = notebook.Curves(), type("State", (), {"global_step": 0})
    for step in range(1, 6):
        state.global_step = step
        curves.on_log(None, state, None, {"loss": 5.0 - step, "learning_rate": 0.1})
    curves.on_log(None, state, None, {"eval_loss": 1.5})
    curves.on_log(None, state, None, {"train_runtime": 3.0})
    curves.on_train_end(None, state, None)
    (only,) = cell.places
    assert only[-1].text == "Curves up to step 5: loss 0.000 and validation loss 1.500"
    assert only[-1].html.startswith("<img ") and "<style" not in only[-1].html


def test_rows_are_a_data_frame_of_the_source(tmp_path: Any) -> None:
    (tmp_path / "rows.csv").write_text("a;b\n1;x\n2;y\n", "utf-8")
    assert notebook.rows(str(tmp_path / "rows.csv")).equals(pd.DataFrame({"a": ["1", "2"], "b": ["x", "y"]}))
    assert list(notebook.rows().columns) == ["Description", "Patient", "Doctor"]
