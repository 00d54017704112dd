from __future__ import annotations

from residency.errors import UserError, listed, nearest


def test_a_message_is_one_line_of_what_was_found_expected_and_to_do() -> None:
    assert str(UserError("found\nthis", "that", "do so")) == "found this; expected that; do so"
    assert str(UserError("found", fix="do so")) == "found; do so"


def test_the_nearest_name_is_only_offered_where_one_is_near() -> None:
    assert nearest("Docter", ["Doctor", "Patient"]) == 'did you mean "Doctor"?'
    assert nearest("xyz", ["Doctor", "Patient"]) == ""


def test_long_lists_are_shortened_with_their_rest_counted() -> None:
    assert listed("abcd", limit=2) == "a, b and 2 more"


def test_the_nearest_name_is_offered_in_its_own_spelling() -> None:
    assert nearest("QUESTION", ["Question", "Answer"]) == 'did you mean "Question"?'
