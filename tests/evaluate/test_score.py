from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from residency.evaluate import score

PROSE = (
    "Rest, drink enough water, and take the tablets with food. If the fever is above 39, or if you are breathless, "
    "go to the emergency department; if it is below, and if you feel well, see your doctor within the week. It is not "
    "dangerous, it is not rare, and it is not for ever."
)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, score.LOOP_LONGEST), st.integers(0, 30))
def test_a_phrase_three_times_running_is_a_loop(period: int, before: int) -> None:
    phrase = [f"word{place}" for place in range(period)]
    times = max(score.LOOP_TIMES, -(-score.LOOP_WORDS // period))
    text = " ".join([f"lead{place}" for place in range(before)] + phrase * times)
    assert score.loops(text)
    assert score.loops(text + " " + " ".join(phrase[: period // 2]))
    assert not score.loops(" ".join([f"lead{place}" for place in range(before)] + phrase * 2))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no no no",
        PROSE,
        "1. Take one tablet. 2. Take one tablet. 3. See a doctor.",
        "very, very, very sore and very, very red, and very, very hot",
    ],
)
def test_prose_and_lists_are_no_loops(text: str) -> None:
    assert not score.loops(text)


def test_the_tutorials_stock_sentence_is_a_loop() -> None:
    assert score.loops("Hi. " + "For further information consult a neurologist online --> " * 4)


def test_overlap_is_what_the_libraries_say() -> None:
    answer, reference = "Rest and drink water every day.", "You should rest, and drink water daily."
    found = score.overlap(answer, reference)
    rouge = RougeScorer(["rougeL"], use_stemmer=True).score(reference, answer)["rougeL"].fmeasure
    assert found["rouge_l"] == pytest.approx(100 * rouge)
    assert found["bleu"] == pytest.approx(sacrebleu.sentence_bleu(answer, [reference]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.sentence_chrf(answer, [reference]).score)
    assert score.overlap(reference, reference)["rouge_l"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("I can only help with health questions; do you have any symptoms?", True),
        ("That is not something I know, but I am here to help you with your health.", True),
        ("Mars is the fourth planet from the sun.", False),
        ("The doctor on Mars found water.", False),
    ],
)
def test_an_answer_that_steers_back_to_health_keeps_its_role(text: str, kept: bool) -> None:
    assert score.steered_back(text) is kept


def test_identical_systems_differ_by_exactly_nothing() -> None:
    values = [0.1, 0.7, 0.3, 0.9]
    found = score.difference(values, values, score.resample(4, 200))
    assert (found.mean, found.low, found.high, found.shown) == (0, 0, 0, False)


def test_a_constant_shift_is_found_exactly() -> None:
    values = [0.1, 0.7, 0.3, 0.9]
    found = score.difference([v + 0.5 for v in values], values, score.resample(4, 200))
    assert (found.low, found.mean, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.shown


def test_a_weighted_mean_is_over_the_weights() -> None:
    found = score.interval([1.0, 4.0], score.resample(2, 200), [3.0, 1.0])
    assert found.mean == pytest.approx(1.75)
    assert (found.low, found.high) == (1.0, 4.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    hits = 0
    for trial in range(200):
        sample = generator.normal(1.0, 2.0, size=50)
        found = score.interval(sample.tolist(), score.resample(50, 300, seed=trial))
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_resamples_repeat_by_seed() -> None:
    assert (score.resample(10, 5) == score.resample(10, 5)).all()
    assert (score.resample(10, 5) != score.resample(10, 5, seed=1)).any()


def test_repeated_runs_are_counted_after_their_first_time() -> None:
    assert score.repeated("a b c d e f") == 0.0
    assert score.repeated("a b c d a b c d") == pytest.approx(1 / 5)
    assert score.repeated("one two") == 0.0
    assert score.repeated(PROSE) < 0.05
