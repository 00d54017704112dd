from __future__ import annotations

import polars as pl
import pytest

from residency.data import schema
from residency.errors import UserError
from residency.recipe import DataSection


def recognise(columns: list[str], **settings: str) -> schema.Shape:
    rows = pl.DataFrame({name: ["x"] for name in columns})
    return schema.recognise(rows, DataSection(source="s", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "reading"),
    [
        (["question", "answer"], "question/answer: question -> answer"),
        (["Question", "Answer"], "question/answer: Question -> Answer"),
        (["instruction", "response"], "instruction/response: instruction -> response"),
        (["instruction", "input", "output"], "instruction/response: instruction + input -> output"),
        (["input", "output"], "input/output: input -> output"),
        (["text"], "text: text"),
        (["Description", "Patient", "Doctor"], "question/answer: Description -> Doctor"),
    ],
)
def test_known_shapes_are_recognised_by_their_columns(columns: list[str], reading: str) -> None:
    assert str(recognise(columns)) == reading


def test_where_two_readings_fit_the_other_is_named() -> None:
    found = recognise(["question", "answer", "text"])
    assert str(found) == "question/answer: question -> answer"
    assert found.other == ("text: text",)


def test_named_columns_win_over_recognised_ones() -> None:
    assert str(recognise(["question", "answer", "title"], question="title", answer="answer")).endswith(
        "title -> answer"
    )


def test_a_wrong_column_names_those_there_are_and_the_nearest() -> None:
    with pytest.raises(UserError, match='no column "anser"; expected one of question, answer; did you mean "answer"'):
        recognise(["question", "answer"], question="question", answer="anser")


def test_one_column_named_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.answer is missing"):
        recognise(["question", "answer"], question="question")


def test_an_unknown_shape_names_the_columns() -> None:
    with pytest.raises(UserError, match="its columns are left, right"):
        recognise(["left", "right"])


def test_a_column_of_lists_is_refused() -> None:
    with pytest.raises(UserError, match='column "a" holds List'):
        schema.texts(pl.DataFrame({"a": [["x"]]}), "a")


def test_numbers_and_nothing_become_text() -> None:
    assert schema.texts(pl.DataFrame({"a": [1.5, None]}), "a").to_list() == ["1.5", ""]


def reading(columns: list[str], **settings: str) -> schema.Shape:
    rows = pl.DataFrame({name: ["x"] for name in ["row", *columns]})
    return schema.recognise(rows, DataSection(source="s", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "question", "context", "answer"), schema.KNOWN)
def test_every_known_shape_is_recognised_when_it_stands_alone(
    kind: str, question: str | None, context: str | None, answer: str
) -> None:
    shape = reading([name for name in (question, context, answer) if name])
    assert (shape.kind, shape.question, shape.context, shape.answer) == (kind, question, context, answer)


def test_every_other_reading_is_listed_in_order() -> None:
    shape = reading(["text", "prompt", "completion", "response", "input", "output"])
    assert str(shape) == "input/output: input -> output"
    assert shape.other == ("question/answer: prompt -> completion", "question/answer: prompt -> response", "text: text")


def test_a_context_is_used_even_where_question_and_answer_are_recognised() -> None:
    assert reading(["Description", "Patient", "Doctor"], context="Patient").context == "Patient"


@pytest.mark.parametrize("field", ["text", "context"])
def test_a_wrong_name_is_refused_in_every_field(field: str) -> None:
    with pytest.raises(UserError, match=rf'data\.{field}: no column "Patent".*did you mean "Patient"'):
        reading(["Description", "Patient", "Doctor"], **{field: "Patent"})


def test_the_row_number_is_not_offered_as_a_column() -> None:
    with pytest.raises(UserError, match=r"one of left, right$"):
        reading(["left", "right"], text="row")


def test_bytes_become_text_where_they_are_text() -> None:
    assert schema.texts(pl.DataFrame({"a": ["é".encode()]}), "a").to_list() == ["é"]
    with pytest.raises(UserError, match='column "a" holds Binary'):
        schema.texts(pl.DataFrame({"a": [b"\xff"]}), "a")
