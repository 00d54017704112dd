from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.evaluate.scores.measure import intervals, mean
from residency.evaluate.scores.wording import distinct, exact_match, normalised, token_f1

TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=8).map(" ".join), min_size=1, max_size=8)


def test_squads_normalisation_takes_case_punctuation_and_articles_away() -> None:
    assert normalised("The  Eiffel-Tower, (in) a park!") == ["eiffeltower", "in", "park"]
    assert normalised("Theatre an hour") == ["theatre", "hour"]  # an article is a whole word


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "f1"),
    [
        ("The Normans", "Normans", 1, 1),
        ("the the a", "", 1, 1),  # SQuAD 2.0: both are without words
        ("", "Normans", 0, 0),
        ("in France", "France", 0, 2 / 3),
        ("France France", "France", 0, 2 / 3),  # a word counts as often as both have it
        ("10th and 11th centuries", "in the 10th and 11th centuries", 0, 8 / 9),
        ("Denmark", "France", 0, 0),
    ],
)
def test_exact_match_and_token_f1_are_those_of_squads_own_script(
    answer: str, reference: str, exact: float, f1: float
) -> None:
    assert exact_match(answer, reference) == exact
    assert token_f1(answer, reference) == pytest.approx(f1)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.integers(1, 2))
def test_distinct_n_is_different_runs_over_all_runs(texts: list[str], size: int) -> None:
    runs = [tuple(words[at : at + size]) for words in map(str.split, texts) for at in range(len(words) - size + 1)]
    expected = len(set(runs)) / len(runs) if runs else math.nan
    assert np.mean(distinct(texts, size)) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_one_phrase_over_and_over_is_without_variety() -> None:
    assert np.mean(distinct(["ask a doctor"] * 50, 1)) == pytest.approx(3 / 150)
    assert np.mean(distinct(["Rest well", "drink water"], 2)) == 1
    assert np.mean(distinct(["Rest rest REST"], 1)) == pytest.approx(1 / 3)


def test_the_interval_of_distinct_n_holds_its_value_and_what_other_answers_of_the_kind_have() -> None:
    generator = np.random.default_rng(4)
    chances = 1 / np.arange(1, 2001) ** 1.1

    def answers() -> list[str]:
        topics = generator.integers(0, 20, 40)
        words = generator.choice(2000, (40, 50), p=chances / chances.sum())
        return [
            " ".join(f"t{topic}-{word % 50}" if word % 3 == 0 else f"w{word}" for word in row)
            for topic, row in zip(topics, words, strict=True)
        ]

    expected = np.mean([np.mean(distinct(answers(), 1)) for _ in range(100)])
    held = []
    for _ in range(60):
        found = intervals({"d": mean(distinct(answers(), 1))}, 300)["d"]
        assert found.low <= found.mean <= found.high
        held.append(found.low <= expected <= found.high)
    assert np.mean(held) > 0.8
