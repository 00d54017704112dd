from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from residency.report import ranked


def spread(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def ratings(share: dict[str, float], **changes: Any) -> dict[str, Any]:
    """What ratings.json holds of tuned and base, whose share of the votes is tuned's."""
    systems = [
        {
            "system": name,
            "rank": 1,
            "rating": spread(at, at - 20, at + 20),
            "elo": spread(at, at - 9, at + 9),
            "votes": 9,
        }
        for name, at in (("tuned", 1060.0), ("base", 940.0))
    ]
    pair = {
        **{"a": "tuned", "b": "base", "wins": 6, "losses": 2, "ties": 1, "both_bad": 1, "share": share},
        **{"foreseen": 0.7, "difference": spread(120, 40, 180)},
    }
    source = {"kind": "votes", "file": "votes.jsonl"}
    left = {"undecided": 2, "of_other_systems": 0}
    return {
        **{"systems": systems, "pairs": [pair], "votes": 9, "questions": 9, "source": source, "judge": None},
        **{"votes_left_out": left, **changes},
    }


@pytest.mark.parametrize(
    ("share", "kind", "says"),
    [
        ((0.7, 0.55, 0.9), "good", "preferred to the base model's in 70% of the votes (95% interval 55 to 90%)"),
        ((0.4, 0.2, 0.6), "open", "No preference between base and tuned is shown: tuned has 40% of the votes"),
        ((0.2, 0.1, 0.4), "bad", "in only 20% of the votes"),
    ],
)
def test_the_verdict_speaks_of_tuned_and_goes_by_the_interval(
    share: tuple[float, float, float], kind: str, says: str
) -> None:
    found = ranked.verdict(ratings(spread(*share)))
    assert found is not None
    assert found[0] == kind
    assert says in found[1]


def test_there_is_no_verdict_where_base_and_tuned_never_met() -> None:
    assert ranked.verdict(ratings(spread(0.5, 0.4, 0.6), pairs=[])) is None


def test_the_verdict_is_the_same_where_base_is_rated_higher() -> None:
    pair = {"a": "base", "b": "tuned", "share": spread(0.8, 0.6, 0.9)}
    found = ranked.verdict(ratings(spread(0.5, 0.4, 0.6), pairs=[pair]))
    assert found is not None
    assert found[0] == "bad"
    assert "in only 20% of the votes (95% interval 10 to 40%)" in found[1]


def test_a_pair_is_shown_with_all_its_numbers() -> None:
    (row,) = ranked.pairs(ratings(spread(0.7, 0.55, 0.9)))
    assert (row["systems"], row["wins"], row["losses"], row["ties"]) == (
        "tuned against base",
        "6",
        "2",
        "1 (1 both bad)",
    )
    assert (row["share"], row["interval"], row["foreseen"]) == ("70%", "55 to 90%", "70%")
    assert (row["difference"], row["difference_interval"], row["shown"]) == ("+120", "+40 to +180", "shown")


def test_the_judges_bias_is_told() -> None:
    judge = {"position_bias": 0.25, "unread": 3}
    told = ranked.told(ratings(spread(0.3, 0.1, 0.45), judge=judge, source={"kind": "judge", "model": "large"}))
    assert "by the model large, asked twice" in told
    assert "by the place alone in 25% of the pairs" in told
    assert "3 of its verdicts could not be read" in told


def test_the_picture_alone_has_colours_for_light_and_dark() -> None:
    text = ranked.picture_alone(ratings(spread(0.3, 0.1, 0.45)))
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "prefers-color-scheme: dark" in text
    assert "tuned" in text
