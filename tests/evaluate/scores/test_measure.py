from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.evaluate.scores import score
from residency.evaluate.scores.measure import (
    SWAPS,
    Measure,
    differences,
    holm,
    intervals,
    mean,
    p_value,
    ratio,
    significance,
)

VALUES = st.lists(st.floats(-100, 100, allow_nan=False), min_size=1, max_size=30)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(1, 9)), min_size=1, max_size=20))
def test_a_mean_and_its_interval_are_those_of_its_values_and_weights(pairs: list[tuple[float, int]]) -> None:
    values, weights = [value for value, _ in pairs], [float(weight) for _, weight in pairs]
    found = intervals({"m": mean(values, weights)}, 200)["m"]
    plain = score.interval(values, score.resample(len(values), 200), weights)
    assert (found.mean, found.low, found.high) == pytest.approx((plain.mean, plain.low, plain.high), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(VALUES)
def test_swapping_the_systems_turns_the_difference_and_leaves_its_p_value(values: list[float]) -> None:
    one, other = {"m": mean(values)}, {"m": mean([value**2 / 100 for value in values])}
    forth, back = differences(one, other, 200)["m"], differences(other, one, 200)["m"]
    assert (forth.mean, forth.low, forth.high) == pytest.approx((-back.mean, -back.high, -back.low), abs=1e-9)
    assert p_value(one["m"], other["m"], 500) == p_value(other["m"], one["m"], 500)


def test_systems_that_are_the_same_differ_by_exactly_nothing_with_a_p_value_of_one() -> None:
    own = {"a": mean([0.1, 0.7, 0.3]), "b": mean([1, 2, 3], [5, 1, 2])}
    assert set(differences(own, own, 100).values()) == {score.Interval(0.0, 0.0, 0.0)}
    assert [(found.p, found.holm, found.stands) for found in significance(own, own).values()] == [(1, 1, False)] * 2


def test_the_p_value_is_the_share_of_all_ways_to_swap_that_differ_as_much() -> None:
    one, other = [3.0, 2.5, 4.0, 1.0, 2.0, 6.0], [1.0, 2.0, 3.5, 1.5, 0.5, 2.0]
    gaps = np.subtract(one, other)
    every = [abs(np.dot(signs, gaps)) for signs in itertools.product((-1, 1), repeat=len(gaps))]
    exact = np.mean([value >= abs(gaps.sum()) - 1e-9 for value in every])
    assert p_value(mean(one), mean(other)) == pytest.approx(exact, abs=0.01)


def test_the_p_value_of_a_mean_is_scipys_sign_flip_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(5)
    one = generator.normal(0.4, 1, 30)
    other = generator.normal(0, 1, 30)
    theirs = stats.permutation_test(
        (one - other,), np.mean, permutation_type="samples", n_resamples=SWAPS, rng=np.random.default_rng(1)
    )
    assert p_value(mean(one.tolist()), mean(other.tolist())) == pytest.approx(theirs.pvalue, abs=0.02)


def test_the_interval_is_scipys_percentile_bootstrap() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(2).exponential(size=40)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(3))
    found = intervals({"m": mean(values.tolist())}, 4000)["m"]
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_few_questions_never_show_a_difference_however_large() -> None:
    # Five answers can be swapped in 32 ways, and two of them differ as much as what is seen.
    assert p_value(mean([9.0] * 5), mean([0.0] * 5)) == pytest.approx(2 / 32, abs=0.01)


def test_alike_systems_are_told_apart_no_oftener_than_one_time_in_twenty() -> None:
    generator = np.random.default_rng(11)
    found = []
    for _ in range(200):
        hard = generator.normal(0, 3, 12)  # what a question does to both
        one, other = (hard + generator.exponential(size=12) for _ in range(2))
        found.append(p_value(mean(one.tolist()), mean(other.tolist()), 400))
    assert np.mean(np.array(found) < 0.05) <= 0.09


def test_holm_is_what_r_says() -> None:
    # p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") and p.adjust(c(0.04, 0.001, 0.5), "holm")
    five = holm(dict(zip("abcde", (0.01, 0.02, 0.03, 0.04, 0.05), strict=True)))
    assert list(five.values()) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    three = holm({"a": 0.04, "b": 0.001, "c": 0.5})
    assert three == {"a": pytest.approx(0.08), "b": pytest.approx(0.003), "c": pytest.approx(0.5)}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_never_lowers_and_lies_under_bonferroni(values: list[float]) -> None:
    alone = {str(place): value for place, value in enumerate(values)}
    among = holm(alone)
    assert list(among) == list(alone)
    for name, value in alone.items():
        assert value <= among[name] <= min(1.0, len(values) * value) + 1e-12
        assert all(among[name] <= among[other] for other in alone if alone[other] >= value)


def test_a_difference_may_be_shown_alone_and_fall_among_many() -> None:
    generator = np.random.default_rng(8)
    base = {f"noise{n}": mean(generator.normal(0, 1, 40).tolist()) for n in range(20)}
    tuned = {f"noise{n}": mean(generator.normal(0, 1, 40).tolist()) for n in range(20)}
    shift = generator.normal(0, 1, 40)
    base["large"], tuned["large"] = mean(shift.tolist()), mean((shift + 1 + generator.normal(0, 0.2, 40)).tolist())
    found = significance(tuned, base)
    alone = [name for name, one in found.items() if one.p < 0.05]
    assert [name for name, one in found.items() if one.stands] == ["large"]
    assert len(alone) > 1  # of twenty that are nothing but noise, one in twenty


def test_a_perplexity_is_not_counted_as_a_further_comparison() -> None:
    tokens = np.array([[3.0, 2], [5.0, 2], [1.0, 2], [2.0, 2], [4.0, 2], [6.0, 2], [3.5, 2]])
    own = {"answer_nll": Measure(tokens, ratio), "perplexity": Measure(tokens, lambda sums: np.exp(ratio(sums)))}
    less = tokens - np.array([[0.5, 0]])
    other = {"answer_nll": Measure(less, ratio), "perplexity": Measure(less, lambda sums: np.exp(ratio(sums)))}
    found = significance(own, other)
    assert found["perplexity"] == found["answer_nll"]
    assert found["answer_nll"].holm == found["answer_nll"].p


def test_a_number_that_a_system_does_not_have_is_left_out_of_what_is_compared() -> None:
    nothing = Measure(np.zeros((3, 2)), ratio)
    own, other = (
        {"a": mean([1, 2, 3]), "b": nothing, "c": mean([1, 1, 1])},
        {"a": mean([1, 1, 1]), "b": mean([1, 2, 3])},
    )
    assert set(intervals(own, 50)) == {"a", "c"}
    assert set(differences(own, other, 50)) == set(significance(own, other)) == {"a"}


def test_resamples_without_any_weight_are_left_out_of_the_interval() -> None:
    found = intervals({"m": mean([5.0, 7.0, 9.0], [1, 0, 0])}, 200)["m"]
    assert (found.mean, found.low, found.high) == (5, 5, 5)
