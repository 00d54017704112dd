from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.train.rewards import Likelihoods, Rewards, compared

nats = st.floats(-500, -0.1)


def likelihoods(chosen: list[float], rejected: list[float]) -> Likelihoods:
    return Likelihoods(np.array(chosen), np.array(rejected))


def test_a_reward_is_beta_times_what_an_answer_gained() -> None:
    found = Rewards.of(likelihoods([-4.0], [-9.0]), likelihoods([-5.0], [-7.0]), 0.5)
    assert found.means() == {
        "reward_accuracy": 1.0,
        "reward_margin": 1.5,
        "chosen_reward": 0.5,
        "rejected_reward": -1.0,
    }


@settings(deadline=None, max_examples=40)
@given(pairs=st.lists(st.tuples(nats, nats), min_size=1, max_size=20))
def test_before_training_nothing_is_gained_and_no_pair_is_told_apart(pairs: list[tuple[float, float]]) -> None:
    start = likelihoods([one for one, _ in pairs], [other for _, other in pairs])
    tokens = likelihoods([10.0] * len(pairs), [20.0] * len(pairs))
    metrics = compared(start, start, reference=start, tokens=tokens, beta=0.1, resamples=50)["metrics"]
    assert metrics["reward_accuracy"]["before"]["mean"] == 0.5
    assert metrics["reward_margin"]["before"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert metrics["likelier"]["difference"]["mean"] == 0.0


def test_likelier_goes_by_the_token_so_that_a_short_answer_has_no_advantage() -> None:
    model, tokens = likelihoods([-20.0], [-6.0]), likelihoods([20.0], [2.0])
    metrics = compared(model, model, reference=model, tokens=tokens, beta=0.1, resamples=50)["metrics"]
    assert metrics["likelier"]["after"]["mean"] == 1.0


def test_a_difference_comes_with_an_interval_that_narrows_with_more_pairs() -> None:
    def width(count: int) -> float:
        noise = np.random.default_rng(1).normal(1.0, 1.0, count)
        start = Likelihoods(np.full(count, -9.0), np.full(count, -9.0))
        after = Likelihoods(start.chosen + noise, start.rejected)
        found = compared(start, after, reference=start, tokens=start, beta=1.0, resamples=400)["metrics"]
        margin = found["reward_margin"]["difference"]
        assert margin["low"] < margin["mean"] < margin["high"]
        assert margin["mean"] == pytest.approx(noise.mean())
        return float(margin["high"] - margin["low"])

    assert width(400) < width(25) / 3
