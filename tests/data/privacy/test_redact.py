from __future__ import annotations

import re
from collections import Counter
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.data import privacy

PERSONAL = (
    "a@b.example",
    "c@d.example",
    "020 7946 0182",
    "+44 20 7946 0182",
    "9876543210",
    "born on 3 May 1961",
    "123-45-6789",
    "GB82 WEST 1234 5698 7654 32",
    "4111 1111 1111 1111",
    "192.168.10.25",
    "https://x.example/user/jane",
)
PLAIN = ("120/80", "on 2023-01-15", "500 mg", "and", "[EMAIL]", "[PHONE_2]", "\n", "so", ",", "call", "J45.909", "é")
words = st.lists(st.sampled_from(PERSONAL + PLAIN) | st.text("0123456789 -().,:/@+", max_size=12), max_size=12)
texts = words.map(" ".join)
PLACEHOLDER = re.compile(rf"\[({'|'.join(privacy.KINDS).upper()})(?:_\d+)?\]")


def rows(*pairs: tuple[str | None, str | None], **more: Any) -> pl.DataFrame:
    schema = {"question": pl.String, "answer": pl.String}
    return pl.DataFrame(list(pairs), schema, orient="row").with_columns(**more)


def placeholders(frame: pl.DataFrame) -> Counter[str]:
    return Counter(kind.lower() for row in frame.rows() for text in row for kind in PLACEHOLDER.findall(text or ""))


def test_all_columns_are_counted_together_and_no_other_is_touched() -> None:
    frame = rows(("a@b.example", "c@d.example or 020 7946 0182"), context=pl.lit("none"), passage=pl.lit("a@b.example"))
    after, counts = privacy.redact(frame)
    assert counts == {"email": 2, "phone": 1}
    assert after.row(0) == ("[EMAIL_1]", "[EMAIL_2] or [PHONE]", "none", "a@b.example")


def test_kinds_that_there_are_none_of_are_not_counted_but_for_the_two_commonest() -> None:
    assert privacy.redact(rows(("", "")))[1] == {"email": 0, "phone": 0}
    assert privacy.redact(rows(("", "192.168.10.25")))[1] == {"email": 0, "phone": 0, "ip_address": 1}


def test_one_value_has_one_placeholder_however_it_is_written() -> None:
    frame = rows(("Ring +44 20 7946 0182 or 07700 900461.", "I rang 020 7946 0182 and 020-7946-0182; A@b.example?"))
    after, _ = privacy.redact(frame)
    assert after.row(0) == ("Ring [PHONE_1] or [PHONE_2].", "I rang [PHONE_1] and [PHONE_1]; [EMAIL]?")


def test_numbers_that_only_end_alike_are_two() -> None:
    assert privacy.redacted("202 555 0123, 302 555 0123") == "[PHONE_1], [PHONE_2]"


def test_a_placeholder_that_stands_there_is_nobody_elses() -> None:
    assert privacy.redacted("[EMAIL] wrote to a@b.example") == "[EMAIL] wrote to [EMAIL_2]"
    assert privacy.redacted("[EMAIL_3] wrote to a@b.example") == "[EMAIL_3] wrote to [EMAIL_4]"


def test_the_word_in_a_placeholder_makes_no_number_of_what_stands_beside_it() -> None:
    once = privacy.redacted("020 7946 0182, glucose 110 125 140 180 95")
    assert once == "[PHONE], glucose 110 125 140 180 95"
    assert privacy.redacted(once) == once


def test_rows_are_numbered_apart_and_the_turns_of_a_conversation_together() -> None:
    pairs = [("I am a@b.example", "Hello."), ("I am c@d.example", "Not a@b.example?"), ("I am c@d.example", "Yes.")]
    alone, counts = privacy.redact(rows(*pairs))
    assert alone["question"].to_list() == ["I am [EMAIL]", "I am [EMAIL_1]", "I am [EMAIL]"]
    turns = rows(*pairs, row=pl.Series([7, 7, 8]), turn=pl.Series([0, 1, 0]), system=pl.lit(""))
    together, same = privacy.redact(turns)
    assert together["question"].to_list() == ["I am [EMAIL_1]", "I am [EMAIL_2]", "I am [EMAIL]"]
    assert together["answer"][1] == "Not [EMAIL_1]?"
    assert counts == same == {"email": 4, "phone": 0}


def test_a_turn_without_personal_data_counts_for_the_numbers_of_its_conversation() -> None:
    turns = rows(("[EMAIL]?", "Yes."), ("a@b.example", ""), row=pl.Series([1, 1]), turn=pl.Series([0, 1]))
    assert privacy.redact(turns)[0]["question"].to_list() == ["[EMAIL]?", "[EMAIL_2]"]


@pytest.mark.parametrize("empty", [None, "", " "])
def test_nulls_and_empty_texts_stay(empty: str | None) -> None:
    frame = rows((empty, "a@b.example"), (empty, empty), ("a@b.example", empty))
    after, counts = privacy.redact(frame)
    assert after.rows() == [(empty, "[EMAIL]"), (empty, empty), ("[EMAIL]", empty)]
    assert counts["email"] == 2


def test_no_rows_and_columns_of_nothing_are_no_error() -> None:
    assert privacy.redact(rows())[0].is_empty()
    assert privacy.redact(pl.DataFrame({"question": [None]}))[0].rows() == [(None,)]


def test_counts_are_told_in_words() -> None:
    assert privacy.told({"email": 1200, "phone": 0, "birth_date": 3}) == "1,200 email, 3 birth date"


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(texts, texts), max_size=4))
def test_counts_are_placeholders_and_a_second_time_finds_nothing(pairs: list[tuple[str, str]]) -> None:
    frame = rows(*pairs)
    once, counts = privacy.redact(frame)
    added = placeholders(once)
    added.subtract(placeholders(frame))
    assert {kind: n for kind, n in added.items() if n} == {kind: n for kind, n in counts.items() if n}
    again, none = privacy.redact(once)
    assert again.equals(once)
    assert not any(none.values())


@settings(deadline=None, max_examples=40)
@given(words.map(" ".join).map(lambda text: re.sub(r"[\d@:/]", "", text)))
def test_a_text_without_digits_addresses_and_links_stays(text: str) -> None:
    assert privacy.redacted(text) == text


@settings(deadline=None, max_examples=40)
@given(st.permutations(PERSONAL[:4]), st.integers(0, 3))
def test_a_value_keeps_its_number_throughout_a_row(order: list[str], again: int) -> None:
    frame = rows((" ; ".join(order), order[again]))
    question, answer = privacy.redact(frame)[0].row(0)
    assert answer == question.split(" ; ")[again]
    assert len(set(question.split(" ; "))) == 3  # two ways to write one phone number
