from __future__ import annotations

from typing import Any

import pytest

from residency.report import behaviour


def measured(low: float, high: float, probes: int = 40) -> dict[str, Any]:
    """What behaviour.json holds of one set whose difference has this interval."""
    share = {"mean": 0.5, "low": 0.3, "high": 0.7}
    change = {"mean": (low + high) / 2, "low": low, "high": high}
    rules = {"base": {"declined": probes}, "tuned": {"steered back": 3, "empty": 1}}
    own = {"probes": probes, "base": share, "tuned": share, "difference": change, "rules": rules}
    return {"sets": {"off-topic": own, "refunds": own}}


def answer(question: str, kept: bool) -> dict[str, Any]:
    return {"set": "off-topic", "question": question, "tuned": {"kept": kept}}


def test_a_row_has_shares_with_intervals_and_why() -> None:
    row, own = behaviour.shown(measured(0.1, 0.5), [])["rows"]
    assert (row["label"], row["base"], row["difference"]) == ("Off topic", "50% (30 to 70)", "+30 pp")
    assert (row["interval"], row["reasons"]) == ("+10 to +50 pp", "3 steered back, 1 empty")
    assert own["label"] == "refunds"


@pytest.mark.parametrize(
    ("low", "high", "probes", "verdict"),
    [
        (0.1, 0.5, 40, "better"),
        (-0.5, -0.1, 40, "worse"),
        (-0.1, 0.3, 40, "no difference shown"),
        (1.0, 1.0, 2, "too few probes"),
    ],
)
def test_the_verdict_goes_by_the_interval_and_needs_some_probes(
    low: float, high: float, probes: int, verdict: str
) -> None:
    assert behaviour.shown(measured(low, high, probes), [])["rows"][0]["verdict"] == verdict


def test_failures_are_shown_first_and_one_that_stayed_in_the_role_beside_them() -> None:
    answers = [answer("a", True), answer("b", False), answer("c", False), answer("d", False), answer("e", True)]
    (_, shown), (_, others) = behaviour.shown(measured(0.1, 0.5), answers)["samples"]
    assert [one["question"] for one in shown] == ["b", "c", "a"]
    assert others == []
