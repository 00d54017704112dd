from __future__ import annotations

from typing import Any

import pytest

from residency.report import preferred


def measured(accuracy: tuple[float, float, float], split: str = "test") -> dict[str, Any]:
    """What train.json holds of a training whose accuracy has this mean and interval."""

    def own(mean: float, low: float, high: float, before: float = 0.0) -> dict[str, dict[str, float]]:
        spread = {"mean": mean, "low": low, "high": high}
        start = dict.fromkeys(spread, before)
        return {
            "before": start,
            "after": spread,
            "difference": {name: spread[name] - before for name in spread},
        }

    metrics = {
        "likelier": own(0.6, 0.4, 0.8, 0.5),
        "reward_accuracy": own(*accuracy, 0.5),
        "reward_margin": own(0.3, 0.1, 0.5),
        "chosen_reward": own(-0.2, -0.3, -0.1),
        "rejected_reward": own(-0.5, -0.6, -0.4),
    }
    return {"beta": 0.1, "reference": "start", "held_out": {split: {"pairs": 20, "metrics": metrics}}}


def test_each_score_stands_before_and_after_with_what_it_shows() -> None:
    found = {row["label"]: row for row in preferred.rows(measured((0.8, 0.6, 0.95)))}
    accuracy = found["Chosen preferred"]
    assert (accuracy["before"], accuracy["after"], accuracy["difference"]) == ("50%", "80%", "+30 pp")
    assert (accuracy["interval"], accuracy["verdict"]) == ("+10 pp to +45 pp", "better")
    assert found["Chosen likelier"]["verdict"] == "no difference shown"
    assert found["Reward of the chosen"]["verdict"] == "worse"
    assert found["Reward of the rejected"]["verdict"] == "less likely"
    assert (found["Reward margin"]["before"], found["Reward margin"]["after"]) == ("0.000", "0.300")


@pytest.mark.parametrize(
    ("accuracy", "kind"), [((0.8, 0.6, 0.95), "good"), ((0.55, 0.3, 0.8), "open"), ((0.2, 0.1, 0.4), "bad")]
)
def test_the_verdict_goes_by_the_interval(accuracy: tuple[float, float, float], kind: str) -> None:
    found = preferred.verdict(measured(accuracy))
    assert found is not None
    assert found[0] == kind
    assert "of 20 held-out pairs" in found[1]


def test_without_test_pairs_the_validation_pairs_speak_and_without_any_nothing_does() -> None:
    found = preferred.verdict(measured((0.8, 0.6, 0.95), "validation"))
    assert found is not None
    assert "of 20 validation pairs" in found[1]
    nothing = {"beta": 0.1, "held_out": {}}
    assert preferred.verdict(nothing) is None
    assert preferred.rows(nothing) == []
