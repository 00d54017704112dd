from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.data.clean import STEPS, Cleaned, clean
from residency.errors import UserError
from residency.recipe import DataSection


def table(*questions: str) -> pl.DataFrame:
    rows = range(1, len(questions) + 1)
    return pl.DataFrame({"row": rows, "question": questions, "answer": ["fine"] * len(questions)})


def cleaned(rows: pl.DataFrame, *steps: str, **settings: Any) -> tuple[pl.DataFrame, list[Cleaned]]:
    return clean(rows, DataSection(source="s", clean=steps, **settings))  # type: ignore[arg-type]


def one(text: str, *steps: str, **settings: Any) -> str:
    """What becomes of one answer."""
    rows = pl.DataFrame({"row": [1], "question": [""], "answer": [text]})
    return str(cleaned(rows, *steps, **settings)[0]["answer"][0])


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        ("white-space", " a\t\tb \n\n c\u00a0 ", "a b c"),
        ("unicode", "cafe\u0301", "caf\u00e9"),
        ("control-characters", "a\x00b\u200bc\ufeff\td\n", "abc\td\n"),
        (
            "control-characters",
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",
            "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        ),
        ("html", "<p>One&nbsp;&amp; two</p><b>three</b>", " One\u00a0& two\n three "),
        ("html", "if p < 0.05 and q > 0.1, x<y", "if p < 0.05 and q > 0.1, x<y"),
        ("html", "<script>alert('x')</script>so<!-- note -->it is", " so it is"),
        ("links", "see https://a.example/b?c=d. Or", "see . Or"),
        ("links", "read [this page](https://a.example/x) first", "read this page first"),
    ],
)
def test_each_step_does_what_its_name_says(step: str, before: str, after: str) -> None:
    assert one(before, step) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Rest. For further information consult a neurologist online -->", "Rest."),
        ("Rest. Hope this answers your question. Wishing you good health.", "Rest."),
        ("Rest (a lot). I hope this helps", "Rest (a lot)."),
        ("Rest! Thanks and regards. Take care.", "Rest!"),
        ("He said thank you and left the room.", "He said thank you and left the room."),
        ("Thank you.", "Thank you."),
        ("No closing here", "No closing here"),
    ],
)
def test_stock_closings_leave_the_end_of_an_answer_and_nothing_else(before: str, after: str) -> None:
    assert one(before, "stock-closings") == after


def test_own_patterns_take_the_place_of_the_known_ones() -> None:
    assert (
        one("Rest. Yours, the team. Take care.", "stock-closings", closings=["yours, [^.]*[.]", "take care[.]"])
        == "Rest."
    )
    assert one("Rest. Take care.", "stock-closings", closings=["yours, [^.]*[.]"]) == "Rest. Take care."


def test_a_faulty_pattern_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"data\.closings: .*unclosed group"):
        one("Rest.", "stock-closings", closings=["("])


def test_the_prefix_leaves_only_from_the_start_of_a_question() -> None:
    rows, _ = cleaned(table("Q. What?", "q: What?", "Quick Q. What?", "Q What?"), "question-prefix")
    assert rows["question"].to_list() == ["What?", "What?", "Quick Q. What?", "Q What?"]
    assert one("Q. 10 is a code", "question-prefix") == "Q. 10 is a code"


def test_each_step_counts_the_rows_it_touched_and_shows_three() -> None:
    _, (step,) = cleaned(table("Q. a", "b", "Q. c", "Q. d", "Q. e"), "question-prefix")
    assert step.rows == 4
    assert step.samples == ((1, "Q. a", "a"), (3, "Q. c", "c"), (4, "Q. d", "d"))


def test_the_order_is_the_recipes() -> None:
    assert one("Rest. Take&nbsp;care.", "html", "white-space", "stock-closings") == "Rest."
    assert one("Rest. Take&nbsp;care.", "stock-closings", "html", "white-space") == "Rest. Take care."


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.text(max_size=30), min_size=1, max_size=5),
    st.sampled_from(["white-space", "unicode", "control-characters"]),
)
def test_cleaning_twice_changes_nothing_more(questions: list[str], step: str) -> None:
    once, _ = cleaned(table(*questions), step)
    twice, (again,) = cleaned(once, step)
    assert again.rows == 0
    assert once.equals(twice)


def test_no_steps_leave_the_rows_alone() -> None:
    rows, done = cleaned(table(" a "))
    assert rows["question"][0] == " a "
    assert done == []


def test_every_step_of_the_recipe_exists() -> None:
    for step in STEPS:
        assert DataSection(source="s", clean=(step,)).clean == (step,)  # type: ignore[arg-type]
