from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.data import conversations

ROLES = st.sampled_from(["user", "assistant", "system"])


def table(*talks: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame({"row": range(1, len(talks) + 1), "talk": talks}, strict=False)


def said(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": text} for role, text in pairs]


def test_user_messages_in_a_row_are_one_question() -> None:
    turns = conversations.explode(table(said(("user", "a"), ("user", "b"), ("assistant", "c"))), "talk")
    assert turns.rows.select("question", "answer").rows() == [("a\n\nb", "c")]


def test_a_trailing_question_is_no_row() -> None:
    turns = conversations.explode(table(said(("user", "a"), ("assistant", "b"), ("user", "c"))), "talk")
    assert turns.rows.height == 1
    assert turns.unanswered == []


@pytest.mark.parametrize(
    ("talk", "why"),
    [
        ([{"role": "user", "content": None}], "message 1: no text"),
        ([{"role": None, "content": "x"}], "message 1: no role"),
        ([None], "message 1: no role"),
        ([{"role": "tool", "content": "x"}], 'message 1: unknown role "tool"'),
        (said(("assistant", "x")), "message 1: an assistant turn with no user turn before it"),
        (said(("user", "a"), ("assistant", "b"), ("assistant", "c")), "message 3: an assistant turn with no user turn"),
    ],
)
def test_a_malformed_conversation_says_which_message(talk: list[Any], why: str) -> None:
    turns = conversations.explode(table(talk), "talk")
    assert turns.rows.is_empty()
    assert turns.malformed[0][0] == 1
    assert turns.malformed[0][1].startswith(why)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(ROLES, st.text(min_size=1, max_size=5)), min_size=1, max_size=8))
def test_every_assistant_turn_of_a_good_conversation_is_a_row_with_its_past(talk: list[tuple[str, str]]) -> None:
    turns = conversations.explode(table(said(*talk)), "talk")
    if turns.malformed:
        return
    answers = [text for role, text in talk if role == "assistant"]
    rows = conversations.with_history(turns.rows)
    assert rows["answer"].to_list() == answers
    for turn, history in enumerate(rows["history"].to_list()):
        assert [answer for _, answer in history] == answers[:turn]


def test_rows_of_one_record_join_the_clusters_that_they_touch() -> None:
    clusters = np.array([0, 1, 1, 3, 4, 5])
    records = np.array([9, 9, 7, 7, 8, 6])
    found = conversations.one_cluster_each(clusters, records)
    assert len(set(found[:4].tolist())) == 1
    assert len(set(found.tolist())) == 3


def test_columns_of_messages_are_told_from_others() -> None:
    assert conversations.holds_messages(table(said(("user", "a")))["talk"])
    assert conversations.holds_messages(pl.Series([[{"from": "human", "value": "x"}]]))
    assert not conversations.holds_messages(pl.Series([["a"]]))
    assert not conversations.holds_messages(pl.Series(["a"]))
