from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from residency.evaluate.scores import score

VALUES = st.lists(st.floats(-100, 100, allow_nan=False), min_size=1, max_size=40)
TEXTS = st.lists(st.sampled_from(["the", "fever", "a", "rest", "water", "day", "two", "."]), max_size=20).map(" ".join)


def clinic_answers() -> list[str]:
    text = (resources.files("residency") / "assets" / "clinic.jsonl").read_text("utf-8")
    return [row["Doctor"] for row in map(json.loads, text.splitlines()) if row["Doctor"]]


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


def test_no_answer_that_a_person_wrote_is_a_loop() -> None:
    answers = clinic_answers()
    assert len(answers) > 300
    assert [answer for answer in answers if score.loops(answer)] == []
    assert np.mean([score.repeated(answer) for answer in answers]) < 0.02


@pytest.mark.parametrize(
    "text",
    [
        "Paracetamol: one tablet at 8, one tablet at 14, one tablet at 20, one tablet at 2.",
        "* no fever * no rash * no cough * no pain * no sickness * no headache * no stiff neck",
        "1. Rest. 2. Drink water. 3. Rest. 4. Drink water. 5. See a doctor if it is worse after 3 days.",
        "Pain in the knee, pain in the hip, pain in the back and pain in the neck are all common and all treatable.",
        "Yes, yes, yes: that is very very very common.",
    ],
)
def test_lists_in_which_words_return_are_no_loops(text: str) -> None:
    assert not score.loops(text)


def test_loops_of_a_real_model_are_found_unless_a_word_of_the_phrase_changes() -> None:
    """Answers of SmolLM2-135M-Instruct under plain greedy, and what a reader calls a loop: five of twelve."""
    rows = [
        json.loads(line)
        for line in (Path(__file__).parent / "greedy_answers.jsonl").read_text("utf-8").split("\n")
        if line
    ]
    found = [row["text"] for row in rows if score.loops(row["text"])]
    assert all(row["loop"] for row in rows if row["text"] in found)
    (missed,) = (row["text"] for row in rows if row["loop"] and row["text"] not in found)
    assert "The second treatment is" in missed and "The third treatment is" in missed  # it counts in words
    assert score.repeated(missed) > 0.5


def test_a_loop_may_number_its_items() -> None:
    item = "Acute leukemia: the most severe stage of it, which begins in the blood."
    assert score.loops("\n".join(f"{n}. {item}" for n in range(9, 12)))
    assert not score.loops(
        "\n".join(f"{n}. {item.replace('Acute', kind)}" for n, kind in enumerate(("Acute", "Old", "New")))
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, score.LOOP_LONGEST), st.data())
def test_a_loop_is_found_where_the_limit_cut_the_phrase_short(period: int, data: st.DataObject) -> None:
    phrase = [f"word{place}" for place in range(period)]
    lead = [f"lead{place}" for place in range(data.draw(st.integers(0, 20)))]
    enough = max(math.ceil(score.LOOP_CUT * period), score.LOOP_WORDS)
    words = enough + data.draw(st.integers(0, 2 * period))
    text = lead + [phrase[place % period] for place in range(words)]
    assert score.loops(" ".join(text))
    assert score.loops("\n".join(text).upper())
    assert not score.loops(" ".join(text[: len(lead) + enough - 1]))


@pytest.mark.parametrize(
    ("times", "after", "found"),
    [(2.9, 0, True), (2.5, 0, True), (2.4, 0, False), (2.9, 1, False), (3.0, 1, True)],
)
def test_a_long_phrase_is_a_loop_before_its_third_time_is_whole_only_where_the_text_ends(
    times: float, after: int, found: bool
) -> None:
    words = [f"word{place % 60}" for place in range(int(times * 60))] + [f"after{place}" for place in range(after)]
    assert score.loops(" ".join(words)) is found


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(), unique=True, max_size=200))
def test_words_that_never_return_are_neither_loop_nor_repetition(words: list[int]) -> None:
    text = " ".join(map(str, words))
    assert not score.loops(text)
    assert score.repeated(text) == 0


@settings(deadline=None, max_examples=40)
@given(TEXTS, TEXTS)
def test_overlap_is_what_the_libraries_say_for_any_text(answer: str, reference: str) -> None:
    found = score.overlap(answer, reference)
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(reference, answer)
    assert found == {
        "rouge_1": pytest.approx(100 * rouge["rouge1"].fmeasure),
        "rouge_2": pytest.approx(100 * rouge["rouge2"].fmeasure),
        "rouge_l": pytest.approx(100 * rouge["rougeL"].fmeasure),
        "bleu": pytest.approx(sacrebleu.sentence_bleu(answer, [reference]).score),
        "chrf": pytest.approx(sacrebleu.sentence_chrf(answer, [reference]).score),
    }
    assert all(0 <= value <= 100.0001 for value in found.values())


def test_an_empty_answer_overlaps_with_nothing() -> None:
    assert set(score.overlap("", "Rest and drink water.").values()) == {0}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("I'm a doctor, so the oil of your car is beyond me. How is your health?", True),
        ("I cannot write poems. Please describe your symptoms.", True),
        ("I can't help with shares; ask me about an illness.", True),
        ("I can’t say who wins. Do you have any symptoms?", True),
        ("I’m a doctor and know little of laptops.", True),
        ("That is outside my field, which is medicine.", True),
        ("The capital of Australia is Canberra.", False),
        ("You should rest and drink water. See a doctor if it is worse.", False),
        ("I cannot say who will win.", False),
        ("", False),
    ],
)
def test_steering_back_takes_both_the_field_and_a_refusal_or_an_offer(text: str, kept: bool) -> None:
    assert score.steered_back(text) is kept


@settings(deadline=None, max_examples=40)
@given(VALUES, st.integers(0, 5))
def test_an_interval_lies_within_the_values_and_repeats_by_seed(values: list[float], seed: int) -> None:
    found = score.interval(values, score.resample(len(values), 200, seed))
    assert found == score.interval(values, score.resample(len(values), 200, seed))
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=20, max_size=60))
def test_the_interval_covers_the_mean(values: list[float]) -> None:
    found = score.interval(values, score.resample(len(values), 400))
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9


@settings(deadline=None, max_examples=40)
@given(VALUES, st.floats(-10, 10))
def test_a_constant_shift_of_any_system_is_found_to_be_that_shift(values: list[float], shift: float) -> None:
    found = score.difference([value + shift for value in values], values, score.resample(len(values), 200))
    assert (found.low, found.mean, found.high) == pytest.approx((shift, shift, shift), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(VALUES)
def test_swapping_the_systems_only_turns_the_sign(values: list[float]) -> None:
    other = [value * value / 100 for value in values]
    draws = score.resample(len(values), 200)
    forth, back = score.difference(values, other, draws), score.difference(other, values, draws)
    assert (forth.low, forth.mean, forth.high) == pytest.approx((-back.high, -back.mean, -back.low), abs=1e-9)


def test_pairing_sees_a_small_difference_that_the_spread_of_questions_would_hide() -> None:
    generator = np.random.default_rng(3)
    hard = generator.normal(0, 10, size=60)
    one, other = (hard + 0.5 + generator.normal(0, 0.5, size=60)).tolist(), hard.tolist()
    draws = score.resample(60, 500)
    assert score.difference(one, other, draws).shown
    apart = [score.interval(values, draws) for values in (one, other)]
    assert apart[0].low < apart[1].high


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 50)), min_size=1, max_size=20))
def test_weights_count_like_so_many_copies(pairs: list[tuple[float, int]]) -> None:
    values, weights = [value for value, _ in pairs], [float(weight) for _, weight in pairs]
    found = score.interval(values, score.resample(len(values), 100), weights)
    copies = [value for value, weight in pairs for _ in range(weight)]
    assert found.mean == pytest.approx(np.mean(copies), abs=1e-9)
    assert score.interval(values, score.resample(len(values), 100), [3.0] * len(values)).low == pytest.approx(
        score.interval(values, score.resample(len(values), 100)).low
    )
