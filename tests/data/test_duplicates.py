from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.data import duplicates

WORD = re.compile(r"\w+")

LONG = (
    "A blocked nose after a cold usually clears within ten days, so rest, drink enough and use salt water rinses, "
    "and see a doctor when fever comes back or one side of the face begins to hurt badly."
)


def table(*pairs: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame({"question": [q for q, _ in pairs], "answer": [a for _, a in pairs]})


def shingles(text: str) -> frozenset[str]:
    """What the arrays hold as hashes."""
    words = WORD.findall(text.lower())
    return frozenset(" ".join(words[i : i + 3]) for i in range(max(len(words) - 2, 1)))


def test_an_exact_repeat_is_the_later_row_capitals_aside() -> None:
    rows = table(("What?", "This."), ("WHAT?", "this."), ("What?", "That."))
    assert duplicates.exact(rows).to_list() == [False, True, False]


def test_rows_with_nearly_the_same_answer_are_one_case() -> None:
    rows = table(("Why one?", LONG), ("How two?", LONG.replace("badly", "much")), ("Where three?", LONG[::-1]))
    found = duplicates.clusters(rows, 0.8)
    assert found[0] == found[1] != found[2]


def test_a_chain_of_near_duplicates_is_one_cluster() -> None:
    second = LONG.replace("badly", "much")
    third = second.replace("A blocked", "Any blocked")
    found = duplicates.clusters(table(("a b c", LONG), ("d e f", second), ("g h i", third)), 0.9)
    assert len(set(found.tolist())) == 1


def test_short_answers_that_are_alike_are_different_cases() -> None:
    rows = table(("Is ibuprofen safe in pregnancy?", "No, it is not."), ("Can babies have honey?", "No, it is not."))
    assert len(set(duplicates.clusters(rows, 0.8).tolist())) == 2


def test_the_same_question_with_another_answer_is_the_same_case() -> None:
    rows = table(("How long does flu last?", LONG), ("How long does flu last?", LONG[::-1]))
    assert len(set(duplicates.clusters(rows, 0.8).tolist())) == 1


def test_empty_questions_do_not_make_one_cluster_of_all_texts() -> None:
    rows = table(("", LONG), ("", LONG[::-1]), ("", LONG.upper()[::-1].replace("A", "E")))
    assert len(np.unique(duplicates.clusters(rows, 0.8))) >= 2


TEXTS = st.lists(st.text("abcd ", min_size=1, max_size=40), min_size=1, max_size=12)


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.sampled_from([0.8, 1.0]))
def test_rows_of_one_cluster_are_joined_by_a_chain_of_similar_questions(texts: list[str], threshold: float) -> None:
    rows = pl.DataFrame({"question": texts, "answer": [""] * len(texts)})
    found = duplicates.clusters(rows, threshold).tolist()
    sets = [shingles(text) for text in texts]
    alike = [
        {j for j, other in enumerate(sets) if texts[j].strip() and len(own & other) >= threshold * len(own | other)}
        if texts[i].strip()
        else {i}
        for i, own in enumerate(sets)
    ]
    for start in range(len(texts)):
        reached, todo = {start}, [start]
        while todo:
            new = alike[todo.pop()] - reached
            reached |= new
            todo += new
        assert {i for i, cluster in enumerate(found) if cluster == found[start]} == reached


@pytest.mark.parametrize(("threshold", "joined"), [(0.5, True), (0.9, False)])
def test_the_threshold_decides_what_is_near(threshold: float, joined: bool) -> None:
    rows = pl.DataFrame(
        {"question": ["how do i treat a high fever at home", "how do i treat a high fever at work"], "answer": ["", ""]}
    )
    one, other = duplicates.clusters(rows, threshold)
    assert (one == other) == joined


def test_an_answer_alone_or_a_question_alone_is_no_exact_repeat() -> None:
    rows = pl.DataFrame({"question": ["a", "a", "b", "A"], "answer": ["x", "y", "x", "X"]})
    assert duplicates.exact(rows).to_list() == [False, False, False, True]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("words", [*range(8, 22), 40])
def test_texts_of_any_length_are_joined_just_from_the_threshold_on(words: int, threshold: float) -> None:
    whole = [f"word{n}" for n in range(words)]
    for gone in range(1, 4):
        one, other = " ".join(whole), " ".join(whole[:-gone])
        rows = pl.DataFrame({"question": [one, "of something else", other], "answer": ["", "", ""]})
        shared = len(shingles(other)) / len(shingles(one))
        first, _, last = duplicates.clusters(rows, threshold).tolist()
        assert (first == last) == (shared >= threshold)


def test_many_texts_that_only_begin_alike_are_told_apart() -> None:
    rows = pl.DataFrame({"question": [f"What are the symptoms of illness{n}?" for n in range(500)] + ["Why?"] * 500})
    found = duplicates.clusters(rows.with_columns(answer=pl.lit("")), 0.8)
    assert len(np.unique(found)) == 501
