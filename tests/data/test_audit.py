from __future__ import annotations

import os
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.data import audit

STOCK = "For further information consult a neurologist online -->"


def test_sentences_that_recur_are_named_with_their_share() -> None:
    answers = [f"Case {n} needs rest. {STOCK}" for n in range(4)] + [f"Case {n} needs water." for n in range(4, 10)]
    (found,) = audit.boilerplate(answers)
    assert found == {"text": STOCK, "rows": 4, "share": 0.4}


def test_a_sentence_twice_in_one_answer_counts_once() -> None:
    assert audit.boilerplate([f"{STOCK} {STOCK}", STOCK, "Something else is here."]) == []


def test_short_sentences_are_no_boilerplate() -> None:
    assert audit.boilerplate(["Hello there. Case one is odd."] * 1 + ["Hello there."] * 9) == []


def test_lengths_are_percentiles_and_a_total() -> None:
    found = audit.lengths(list(range(1, 101)))
    assert found["median"] == 50.5
    assert found["longest"] == 100
    assert found["total"] == 5050
    assert audit.lengths([]) == {}


def test_every_length_is_in_the_histogram() -> None:
    found = audit.histogram([3, 5, 5, 90])
    assert sum(found["counts"]) == 4
    assert len(found["edges"]) == len(found["counts"]) + 1


@pytest.mark.parametrize("hash_seed", ["1", "3"])
def test_sentences_equally_common_keep_the_order_of_the_text_in_every_process(hash_seed: str) -> None:
    code = "from residency.data import audit; print([b['text'] for b in audit.boilerplate(['%s'] * 4)])"
    texts = ["First we rest a lot.", "Second we drink some water.", "Third we call a doctor."]
    found = subprocess.run(
        [sys.executable, "-c", code % " ".join(texts)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(texts)


def test_boilerplate_needs_three_answers_and_one_in_a_hundred() -> None:
    stock = "Please do ask me again."
    assert audit.boilerplate([stock] * 2) == []
    assert len(audit.boilerplate([stock] * 3)) == 1
    assert audit.boilerplate([stock] * 3 + ["None."] * 400) == []


def rows(*pairs: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {"row": range(1, len(pairs) + 1), "question": [q for q, _ in pairs], "answer": [a for _, a in pairs]}
    )


def answers(*texts: str) -> pl.DataFrame:
    return rows(*((f"Question {n}?", text) for n, text in enumerate(texts)))


def words(count: int) -> str:
    return " ".join(f"word{n}" for n in range(count))


@pytest.mark.parametrize(
    "cut",
    [
        "Drink enough water every day. The dose depends on the weight of your child and the",
        "Drink enough water every day. The dose depends on how heavy your child is at present",
        "Drink enough water every day, and take the tablets with a meal that holds some fat...",
        "Drink enough water every day, and take the tablets with a meal that holds some fat…",
        "Drink enough water every day: - water without gas - weak tea - soup that was made with",
    ],
)
def test_an_answer_that_stops_in_mid_sentence_is_truncated(cut: str) -> None:
    assert audit.truncated(answers(cut, "All is well here.", "And here as well.")).to_list() == [True, False, False]


@pytest.mark.parametrize(
    "whole",
    [
        "Drink enough water every day, and above all: - water without gas - weak tea - clear soup",
        "Drink enough water every day, and above all:\n1. water without gas\n2. weak tea\n3. clear soup",
        "These were named as signs. Fever at night Loss of weight Pain in the joints Swollen knees",
        "Run this first, and then look at what it says. ```print(1)``` or for i in x { go } end",
        "You are doing well, and nothing has to change for a year. Kind regards, Dr. Anna Weber",
        "You are doing well, and nothing has to change for a year. NIH: National Institute on Aging",
        "You are doing well, and more of it can be read at https://example.org/some/page",
        "You are doing well, and nothing has to change for a year 👍",
        "Ja, das ist gut so",
    ],
)
def test_lists_code_names_addresses_and_short_answers_are_not_truncated(whole: str) -> None:
    assert audit.truncated(answers(whole, "All is well here.", "And here as well.")).to_list() == [False] * 3


def test_capitals_of_german_nouns_are_no_list() -> None:
    cut = "Das Kind braucht Ruhe. Die Menge der Tropfen hängt vom Alter und vom Gewicht deines Kindes ab und muss"
    whole = ("Das Kind braucht Ruhe und viel Wasser.", "Die Tropfen stillen den Husten in der Nacht.")
    assert audit.truncated(answers(cut, *whole)).to_list() == [True, False, False]


def test_where_no_answer_has_a_full_stop_only_dangling_ones_are_truncated() -> None:
    casual = "you can take it with food and it works best in the morning"
    assert audit.truncated(answers(casual, casual + " or", casual + " too")).to_list() == [False, True, False]


@pytest.mark.parametrize(
    ("question", "copy"),
    [
        ("Can I take the tablets with milk?", "Can I take the tablets with milk."),
        ("Can I take the tablets with milk?", "With milk can I take the tablets"),
    ],
)
def test_an_answer_of_the_questions_own_words_is_a_copy(question: str, copy: str) -> None:
    assert audit.copied(rows((question, copy))).to_list() == [True]


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        ("Can I take the tablets with milk?", "Yes, I can take the tablets with milk."),
        ("What is the normal temperature of the body?", "The normal temperature of the body is 37."),
        ("Can I take the tablets with milk?", "Can I take the tablets with milk? Better not, since it binds them."),
        ("Is it bad?", "It is bad."),
        ("What can I give my son for his cough", "What I can give my son for his cough: warm honey"),
    ],
)
def test_an_answer_that_says_yes_or_a_number_or_more_is_no_copy(question: str, reply: str) -> None:
    assert audit.copied(rows((question, reply))).to_list() == [False]


def test_three_words_are_short_and_four_are_not_in_any_script() -> None:
    texts = answers("Yes, you can.", "Yes, you certainly can.", "可以。", "每天两次，饭后服药，多喝水。", "x" * 70)
    assert audit.short(texts).to_list() == [True, False, True, False, False]


def test_one_question_with_unlike_answers_names_all_its_rows() -> None:
    table = rows(
        ("Is coffee bad?", "Three cups a day do no harm to most people."),
        ("Is tea bad?", "It is not, unless it is drunk scalding hot."),
        ("IS COFFEE, bad", "Never touch it again; it ruins the heart in a year."),
    )
    assert audit.contradicting(table).to_list() == [True, False, True]


def test_yes_against_no_contradicts_however_alike_the_rest_is() -> None:
    rest = "it is safe to take the tablets together with a glass of milk in the morning"
    assert audit.contradicting(rows(("Milk?", f"Yes, {rest}."), ("Milk?", f"No, {rest}."))).to_list() == [True, True]


@pytest.mark.parametrize("other", ["Yes.", "Yes, three cups a day", "Yes, three cups a day do no harm to most people!"])
def test_a_shorter_form_of_an_answer_contradicts_nothing(other: str) -> None:
    table = rows(("Coffee?", "Yes, three cups a day do no harm to most people."), ("Coffee?", other))
    assert audit.contradicting(table).to_list() == [False, False]


def test_answers_that_share_a_sentence_do_not_contradict() -> None:
    shared = "Rest for three days and drink"
    table = rows(
        ("Flu?", f"{shared}. Ring us once the fever climbs over forty, or breathing hurts."),
        ("Flu?", f"{shared}. Stay off work, sleep whenever tired, wash hands before every meal."),
    )
    assert audit.contradicting(table).to_list() == [False, False]


def test_later_turns_and_texts_without_a_question_never_contradict() -> None:
    later = rows(("And at night?", "Take one more."), ("And at night?", "Sleep on two pillows.")).with_columns(turn=1)
    texts = rows(("", "Take one more."), ("", "Sleep on two pillows."))
    assert not audit.contradicting(later).any()
    assert audit.contradicting(later.with_columns(turn=0)).all()
    assert not audit.contradicting(texts).any()


def shingles(text: str) -> set[str]:
    found = text.split()
    return {" ".join(found[i : i + 3]) for i in range(max(len(found) - 2, 1))}


@given(st.integers(0, 60), st.integers(5, 60))
@settings(max_examples=40, deadline=None)
def test_answers_contradict_below_a_tenth_of_shared_runs_of_three_words(shared: int, own: int) -> None:
    common = words(shared)
    texts = [f"{common} " + " ".join(f"{side}{n}" for n in range(own)) for side in ("left", "right")]
    one, other = (shingles(text) for text in texts)
    both, least = len(one & other), min(len(one), len(other))
    expected = both / len(one | other) < audit.CONTRADICTS and both / least < audit.PART_OF
    if shared + own <= audit.COMPARED:
        assert audit.contradicting(rows(*(("Same?", text) for text in texts))).to_list() == [expected] * 2


@given(st.lists(st.tuples(st.sampled_from(["", "Why?", "How so, then?"]), st.text(max_size=40)), max_size=12))
@settings(max_examples=40, deadline=None)
def test_every_mask_has_one_value_a_row_and_none_left_after_dropping(pairs: list[tuple[str, str]]) -> None:
    for mask in (audit.contradicting, audit.copied, audit.short):
        table = rows(*pairs) if pairs else rows(("", "")).clear()
        marked = mask(table)
        assert (marked.len(), marked.dtype, marked.null_count()) == (len(pairs), pl.Boolean, 0)
        assert not mask(table.filter(~marked)).any()
