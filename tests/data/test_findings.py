from __future__ import annotations

import polars as pl
import pytest

from residency.data.findings import RULES, Finding, findings, rows_of
from residency.recipe import DataSection

STOCK = "For further information consult a neurologist online -->"


def table(*pairs: tuple[str, str]) -> pl.DataFrame:
    count = len(pairs)
    return pl.DataFrame(
        {
            "row": range(1, count + 1),
            "question": [q for q, _ in pairs],
            "answer": [a for _, a in pairs],
            "prompt_tokens": [10] * count,
            "answer_tokens": [20] * count,
            "cluster": range(count),
        }
    )


GOOD = [
    ("What helps against a blocked nose at night?", "Salt water rinses before bed, and a raised pillow, often do."),
    (
        "How long does a sprained ankle hurt?",
        "Two to six weeks, and less each day; see somebody if you cannot stand on it.",
    ),
    (
        "Is coffee bad for the heart?",
        "In most people three cups a day do no harm at all, and some studies see a benefit.",
    ),
    ("Which foods have iron?", "Red meat, lentils, beans and dark leaves:\n- lentils\n- spinach"),
]


def of_kind(rows: pl.DataFrame, kind: str) -> Finding | None:
    return next((f for f in findings(rows, 100, 0) if f.kind == kind), None)


def test_good_rows_give_no_finding() -> None:
    assert findings(table(*GOOD), 100, 0) == []


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (
            "truncated-answers",
            ("Why so tired?", "Being tired all day can have many causes, and the first that doctors"),
        ),
        ("truncated-answers", ("Why so tired?", "Being tired all day can have many causes, and the first is sleep...")),
        ("copied-questions", ("Can I take the tablets with milk?", "Can I take the tablets with milk.")),
        ("short-answers", ("Can I swim after the injection?", "Yes, you can.")),
        ("html", ("Is it mild?", "It is a <b>mild</b> form that needs rest and nothing more than that.")),
        (
            "contradicting-answers",
            ("IS coffee bad, for the heart", "Never drink it again; it is the worst of poisons to you."),
        ),
    ],
)
def test_each_fault_is_found_with_its_row(kind: str, bad: tuple[str, str]) -> None:
    found = of_kind(table(*GOOD, bad), kind)
    assert found is not None
    assert 5 in [row for row, _ in found.examples]
    assert found.count <= 2


def test_stock_closings_are_found_by_how_answers_end() -> None:
    rows = table(*((f"Question {n} of many?", f"Answer {n} says rest for {n} days. {STOCK}") for n in range(6)), *GOOD)
    found = of_kind(rows, "stock-closings")
    assert found is not None
    assert (found.count, found.severity) == (6, "warning")
    assert "stock-closings" in found.advice


def test_near_duplicates_say_what_a_random_split_would_have_leaked() -> None:
    rows = table(*GOOD).with_columns(cluster=pl.Series([0, 0, 1, 2]))
    found = next(f for f in findings(rows, 100, 7) if f.kind == "near-duplicates")
    assert found.count == 1
    assert "leaked 7" in found.advice


def test_one_question_for_most_rows_is_a_problem_and_comes_first() -> None:
    rows = table(*(("Same?", f"Answer {n} is told here in full, with number {n * n}.") for n in range(6)), *GOOD)
    first = findings(rows, 100, 0)[0]
    assert (first.kind, first.severity, first.count) == ("one-question", "problem", 6)


def test_rows_near_the_limit_are_noted() -> None:
    found = of_kind(table(*GOOD).with_columns(answer_tokens=pl.Series([85, 20, 20, 20])), "near-the-limit")
    assert found is not None
    assert found.count == 1


def test_a_long_row_is_shown_by_both_its_ends() -> None:
    found = of_kind(table(("Why?", "x " * 300 + "and then it stops in the middle of")), "truncated-answers")
    assert found is not None
    assert len(found.examples[0][1]) < 220
    assert found.examples[0][1].endswith("in the middle of")


def test_the_recipe_can_drop_just_the_kinds_that_name_rows() -> None:
    for kind in RULES:
        assert DataSection(source="s", drop=(kind,)).drop == (kind,)  # type: ignore[arg-type]
        assert rows_of(table(*GOOD), kind).to_list() == [False] * 4


def test_texts_without_questions_give_no_question_findings() -> None:
    rows = table(*(("", f"{n} texts stand here, and they end in {n} words.") for n in range(5)))
    assert findings(rows, 100, 0) == []
