from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.data.clean import STEPS, clean


def table(*questions: str) -> pl.DataFrame:
    rows = range(1, len(questions) + 1)
    return pl.DataFrame({"row": rows, "question": questions, "answer": ["fine"] * len(questions)})


def test_white_space_of_every_kind_collapses() -> None:
    rows, _ = clean(table(" a\t\tb \n\n c  "), ("white-space",))
    assert rows["question"][0] == "a b c"


def test_the_prefix_leaves_only_from_the_start_of_a_question() -> None:
    rows, _ = clean(table("Q. What?", "q: What?", "Quick Q. What?", "Q What?"), ("question-prefix",))
    assert rows["question"].to_list() == ["What?", "What?", "Quick Q. What?", "Q What?"]


def test_each_step_counts_the_rows_it_touched_and_shows_three() -> None:
    _, (step,) = clean(table("Q. a", "b", "Q. c", "Q. d", "Q. e"), ("question-prefix",))
    assert step.rows == 4
    assert step.samples == ((1, "Q. a", "a"), (3, "Q. c", "c"), (4, "Q. d", "d"))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_cleaning_twice_changes_nothing_more_but_a_second_prefix(questions: list[str]) -> None:
    once, _ = clean(table(*questions), ("white-space",))
    twice, (step,) = clean(once, ("white-space",))
    assert step.rows == 0
    assert once.equals(twice)


def test_no_steps_leave_the_rows_alone() -> None:
    rows, done = clean(table(" a "), ())
    assert rows["question"][0] == " a "
    assert done == []
    assert {"white-space", "question-prefix"} == set(STEPS)


def test_a_row_touched_in_two_columns_counts_once() -> None:
    rows = pl.DataFrame({"row": [1, 2], "question": ["a  b", "a"], "answer": ["c  d", "c"], "context": ["e", " e"]})
    after, (step,) = clean(rows, ("white-space",))
    assert step.rows == 2
    assert after.rows() == [(1, "a b", "c d", "e"), (2, "a", "c", "e")]
