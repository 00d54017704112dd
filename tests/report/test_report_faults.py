from __future__ import annotations

import pytest

from residency.report.faults import span


@pytest.mark.parametrize(
    ("shown", "signed", "text"),
    [
        ({"share": 0.125, "low": 0.05, "high": 0.26}, False, "12% (5 to 26)"),
        ({"mean": -0.3, "low": -0.5, "high": 0.001}, True, "-30 pp (-50 to 0)"),
        ({"mean": 0.0, "low": 0.0, "high": 0.0}, True, "0 pp (0 to 0)"),
        (None, False, "not checked"),
    ],
)
def test_a_share_is_written_with_its_interval(shown: dict[str, float] | None, signed: bool, text: str) -> None:
    assert span(shown, signed) == text
