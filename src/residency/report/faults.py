"""The faults of a run's answers, as the page shows them."""

from __future__ import annotations

from typing import Any

from residency.workspace import Run, sha256

FILE = "evaluation/faults.json"
ANSWERS = "evaluation/answers.jsonl"


def section(run: Run) -> dict[str, Any] | None:
    """What the page says of faults; None where nobody looked for them, or the answers are others since."""
    if not (run.folder / FILE).is_file() or not (run.folder / ANSWERS).is_file():
        return None
    found = run.read_json(FILE, "faults")
    if found.get("answers_sha256") != sha256(run.folder / ANSWERS):
        return None
    return {
        "questions": found["questions"],
        "systems": found["systems"],
        "rows": [_row(one, found["systems"]) for one in found["categories"] if _some(one, found["systems"])],
        "unchecked": [one["name"] for one in found["categories"] if not one["checked"]],
        "clean": [one["name"] for one in found["categories"] if one["checked"] and not _some(one, found["systems"])],
        "judge": found["judge"],
        "nearest": found["nearest"],
        "before": _before(found["before"]),
    }


def span(shown: dict[str, Any] | None, signed: bool = False) -> str:
    """A share or a difference in per cent or percentage points, with its interval."""
    if shown is None:
        return "not checked"
    mean = shown["mean"] if signed else shown["share"]
    unit = " pp" if signed else "%"
    return f"{_percent(mean, signed)}{unit} ({_percent(shown['low'], signed)} to {_percent(shown['high'], signed)})"


def _percent(value: float, signed: bool) -> str:
    text = f"{100 * value:{'+' if signed else ''}.0f}"
    return text if float(text) else text.lstrip("+-")


def _some(one: dict[str, Any], systems: list[str]) -> bool:
    return any(one["systems"][name] and one["systems"][name]["count"] for name in systems)


def _row(one: dict[str, Any], systems: list[str]) -> dict[str, Any]:
    return {
        "name": one["name"],
        "meaning": one["meaning"],
        "shares": {name: span(one["systems"][name]) for name in (*systems, "reference")},
        "difference": span(one["difference"], signed=True) if one["difference"] else "",
        "verdict": _verdict(one["difference"]),
        "kinds": [(kind, own) for kind, own in one["kinds"].items() if any(own[name] for name in systems)],
        **{key: one[key] for key in ("examples", "causes", "remedies", "advice")},
    }


def _before(change: dict[str, Any] | None) -> dict[str, Any] | None:
    if change is None:
        return None
    rows = [
        {
            "name": one["name"],
            "before": span(one["before"]),
            "now": span(one["now"]),
            "change": span(one["difference"], signed=True) if one["difference"] else "not checked",
            "verdict": _verdict(one["difference"]),
        }
        for one in change["categories"]
        if any(one[side] and one[side]["count"] for side in ("before", "now"))
    ]
    return {**change, "rows": rows}


def _verdict(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return ""
    if difference["low"] <= 0 <= difference["high"]:
        return "no difference shown"
    return "better" if difference["high"] < 0 else "worse"
