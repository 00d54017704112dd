from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.evaluate.scores.copying import longest_runs

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=14).map(" ".join)


def by_hand(text: str, sources: list[str]) -> int:
    """Each run of the text looked for in each source."""
    words, held = text.split(), [source.split() for source in sources]
    lengths = [
        end - start
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
        if any(words[start:end] == s[at : at + end - start] for s in held for at in range(len(s)))
    ]
    return max(lengths, default=0)


@settings(deadline=None, max_examples=120)
@given(st.lists(WORDS, max_size=4), st.lists(WORDS, max_size=4))
def test_the_longest_run_is_what_a_look_at_every_run_finds(texts: list[str], sources: list[str]) -> None:
    assert longest_runs(texts, sources) == [by_hand(text, sources) for text in texts]


def test_an_answer_out_of_the_training_data_is_copied_whole() -> None:
    training = ["Rest and drink enough water for two days.", "See a doctor at once."]
    copied = "Rest and drink enough water for two days."
    mixed = "Well: drink enough water for two days. See a doctor soon."
    assert longest_runs([copied, mixed, "Nothing of it", ""], training) == [8, 6, 0, 0]


def test_no_run_goes_from_one_training_answer_into_the_next_or_from_one_answer_into_another() -> None:
    assert longest_runs(["rest and water"], ["take rest", "and water"]) == [2]
    assert longest_runs(["take rest", "and water"], ["rest and"]) == [1, 1]


def test_white_space_is_no_difference_and_a_capital_or_a_comma_is() -> None:
    assert longest_runs(["rest and\n\n water"], ["you rest  and water"]) == [3]
    assert longest_runs(["Rest and water"], ["rest and water"]) == [2]
    assert longest_runs(["rest, and water"], ["rest and water"]) == [2]


def test_training_words_by_the_hundred_thousand_are_read_in_seconds() -> None:
    generator = np.random.default_rng(0)
    known = [f"w{n}" for n in range(2000)]
    sources = [" ".join(known[place] for place in row) for row in generator.zipf(1.3, (3000, 200)) % 2000]
    texts = [" ".join(source.split()[20:140]) + " and then something else" for source in sources[:50]]
    started = time.perf_counter()
    assert min(longest_runs(texts, sources)) >= 120
    assert time.perf_counter() - started < 20
