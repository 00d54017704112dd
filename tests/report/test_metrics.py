from __future__ import annotations

import pytest

from residency.report.metrics import GROUPS, METRICS, standing


def test_the_main_table_is_short_and_every_metric_stands_once() -> None:
    assert sum(metric.group == "main" for metric in METRICS) <= 10
    assert {metric.group for metric in METRICS} == set(GROUPS)
    assert len({metric.key for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize(
    ("low", "high", "stands", "said"),
    [
        (0.1, 0.3, True, "stands among all"),
        (0.1, 0.3, False, "may be chance among so many"),
        (-0.1, 0.3, False, ""),
        (-0.1, 0.3, True, ""),
    ],
)
def test_a_difference_that_is_shown_says_whether_it_holds_among_all(
    low: float, high: float, stands: bool, said: str
) -> None:
    evaluation = {
        "differences": {"chrf": {"mean": 0.1, "low": low, "high": high}},
        "significance": {"chrf": {"p": 0.01, "holm": 0.1, "stands": stands}},
    }
    assert standing(evaluation, "chrf") == said
    assert standing({"differences": evaluation["differences"]}, "chrf") == ""  # a run of before
