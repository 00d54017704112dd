"""What public benchmarks say of base and tuned, as rows for tables and a sentence for the top of the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SHARES = ("acc", "exact_match")  # metrics that are shares of questions, by how their names begin


def rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each task and metric of benchmarks.json, groups last: values with standard errors, and the difference.

    `verdict` is "forgotten" where the whole interval is on the worse side of zero, "gained" where it is on the better
    one, "no difference shown", or empty where one system alone was asked.
    """
    return [
        _row(name, metric, entry, group)
        for name, entry, group in _entries(content)
        for metric in dict.fromkeys(metric for own in entry["systems"].values() for metric in own["metrics"])
    ]


def verdict(content: dict[str, Any]) -> tuple[str, str] | None:
    """What was forgotten, with "good" or "bad" before it; None where nothing was compared, or only at a quick look."""
    compared = [row for row in rows(content) if row["verdict"] and not row["quick_look"] and not row["group"]]
    if not compared:
        return None
    lost = [row for row in compared if row["verdict"] == "forgotten"]
    if not lost:
        tasks = list(dict.fromkeys(row["task"] for row in compared))
        return "good", f"Nothing is shown to be forgotten of {_and(tasks)}."
    return "bad", "Forgotten: " + _and([f"{row['task']} {row['metric']} {row['difference']}" for row in lost]) + "."


def quick(content: dict[str, Any]) -> list[str]:
    """The tasks of which only the first questions were asked."""
    return [name for name, entry in content["tasks"].items() if entry["quick_look"]]


def _entries(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for name, entry in content["tasks"].items():
        yield name, entry, False
    for name, entry in content["groups"].items():
        yield f"{name}, {len(entry['tasks'])} subjects together", entry, True


def _row(name: str, metric: str, entry: dict[str, Any], group: bool) -> dict[str, Any]:
    share = metric.startswith(SHARES)
    difference = entry["differences"].get(metric)
    found = {
        "task": name,
        "metric": metric,
        "group": group,
        "questions": entry["questions"],
        "quick_look": entry["quick_look"],
        "difference": "",
        "interval": "",
        "verdict": "",
    }
    for system in ("base", "tuned"):
        own = entry["systems"].get(system, {}).get("metrics", {}).get(metric)
        found[system] = _value(own, share) if own else ""
    if difference:
        found["difference"] = _change(difference["mean"], share)
        found["interval"] = f"{_change(difference['low'], share)} to {_change(difference['high'], share)}"
        shown = difference["low"] > 0 or difference["high"] < 0
        found["verdict"] = "forgotten" if difference["forgotten"] else "gained" if shown else "no difference shown"
    return found


def _value(own: dict[str, float | None], share: bool) -> str:
    value, error = own["value"] or 0.0, own["stderr"]
    if share:
        return f"{100 * value:.2f}%" + (f" ± {100 * error:.2f}" if error is not None else "")
    return f"{value:.4f}" + (f" ± {error:.4f}" if error is not None else "")


def _change(value: float, share: bool) -> str:
    text = f"{100 * value:+.2f}" if share else f"{value:+.4f}"
    return (text if float(text) else text.lstrip("+-")) + (" pp" if share else "")


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
