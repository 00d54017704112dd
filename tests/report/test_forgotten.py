from __future__ import annotations

from typing import Any

from residency.report import forgotten


def entry(difference: tuple[float, float, float] | None, *, limit: int | None = None) -> dict[str, Any]:
    """A task of 400 questions in benchmarks.json, with this difference and interval."""
    own = {"metrics": {"acc": {"value": 0.5, "stderr": 0.025}}}
    found: dict[str, Any] = {"questions": 400, "quick_look": limit is not None, "systems": {"base": own}}
    found["differences"] = {}
    if difference:
        mean, low, high = difference
        found["systems"]["tuned"] = {"metrics": {"acc": {"value": 0.5 + mean, "stderr": 0.025}}}
        found["differences"] = {"acc": {"mean": mean, "low": low, "high": high, "forgotten": high < 0}}
    return found


def content(**tasks: dict[str, Any]) -> dict[str, Any]:
    return {"tasks": tasks, "groups": {}}


def test_a_fall_whose_whole_interval_is_below_zero_is_forgotten_and_stands_at_the_top() -> None:
    found = content(arc_easy=entry((-0.06, -0.09, -0.03)), hellaswag=entry((-0.01, -0.03, 0.01)))
    easy, swag = forgotten.rows(found)
    assert (easy["base"], easy["tuned"], easy["difference"]) == ("50.00% ± 2.50", "44.00% ± 2.50", "-6.00 pp")
    assert (easy["verdict"], swag["verdict"]) == ("forgotten", "no difference shown")
    assert forgotten.verdict(found) == ("bad", "Forgotten: arc_easy acc -6.00 pp.")


def test_nothing_forgotten_is_said_of_the_tasks_that_were_compared() -> None:
    found = content(arc_easy=entry((0.03, 0.01, 0.05)), hellaswag=entry((0.0, -0.02, 0.02)), mmlu_anatomy=entry(None))
    assert forgotten.rows(found)[0]["verdict"] == "gained"
    assert forgotten.verdict(found) == ("good", "Nothing is shown to be forgotten of arc_easy and hellaswag.")


def test_one_system_alone_compares_nothing() -> None:
    (row,) = forgotten.rows(content(arc_easy=entry(None)))
    assert (row["tuned"], row["difference"], row["verdict"]) == ("", "", "")
    assert forgotten.verdict(content(arc_easy=entry(None))) is None


def test_a_quick_look_gives_no_verdict_and_is_named() -> None:
    found = content(arc_easy=entry((-0.3, -0.5, -0.1), limit=20))
    assert forgotten.verdict(found) is None
    assert forgotten.quick(found) == ["arc_easy"]
    assert forgotten.rows(found)[0]["quick_look"]
