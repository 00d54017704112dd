"""What a preference-tuned model prefers on held-out pairs, before and after: the report's table and verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# What it is called, what it means, how it is written, and whether a change in it is good; "" where that depends.
METRICS = {
    "reward_accuracy": (
        "Chosen preferred",
        "share of pairs whose chosen answer gained more over the reference than the rejected one; 50%: nothing gained",
        "share",
        "higher",
    ),
    "reward_margin": (
        "Reward margin",
        "beta times how much more likely, in nats, the chosen answer became than the rejected one",
        "number",
        "higher",
    ),
    "likelier": (
        "Chosen likelier",
        "share of pairs whose chosen answer is the likelier one, token for token",
        "share",
        "higher",
    ),
    "chosen_reward": (
        "Reward of the chosen",
        "under 0 the chosen answers themselves became less likely: raise train.dpo.beta or lower the learning rate",
        "number",
        "higher",
    ),
    "rejected_reward": ("Reward of the rejected", "under 0 they became less likely", "number", ""),
}


def held_out(preference: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The split to speak of and its numbers: the test pairs, which chose nothing, or else the validation pairs."""
    found = preference["held_out"]
    return next(((name, found[name]) for name in ("test", "validation") if name in found), None)


def rows(preference: dict[str, Any]) -> list[dict[str, str]]:
    """A row for each metric: label, meaning, before, after, difference, interval and verdict, as texts."""
    measured = held_out(preference)
    return [_row(name, measured[1]["metrics"][name]) for name in METRICS] if measured else []


def verdict(preference: dict[str, Any]) -> tuple[str, str] | None:
    """One sentence with "good", "bad" or "open" before it; None where no pair was held out."""
    measured = held_out(preference)
    if measured is None:
        return None
    after = measured[1]["metrics"]["reward_accuracy"]["after"]
    share = f"{_write('share', after['mean'])} of {measured[1]['pairs']:,} {_HELD[measured[0]]} pairs"
    between = f"95% interval {_write('share', after['low'])} to {_write('share', after['high'])}"
    if after["low"] > 0.5:
        return "good", f"Training moved the model towards the chosen answer in {share} ({between}; chance is 50%)."
    if after["high"] < 0.5:
        return "bad", f"Training moved the model towards the chosen answer in only {share} ({between})."
    return "open", f"No preference for the chosen answers is shown: {share} ({between}; chance is 50%)."


def points(metrics: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """(step, reward) of the validation pairs' chosen and rejected answers, for a picture."""
    return {
        name: [(row["step"], row[key]) for row in metrics if key in row]
        for name, key in (("chosen", "validation_chosen_reward"), ("rejected", "validation_rejected_reward"))
    }


_HELD = {"test": "held-out", "validation": "validation"}


def _row(name: str, own: dict[str, dict[str, float]]) -> dict[str, str]:
    label, meaning, form, better = METRICS[name]
    change = own["difference"]
    return {
        "label": label,
        "meaning": meaning,
        "before": _write(form, own["before"]["mean"]),
        "after": _write(form, own["after"]["mean"]),
        "difference": _write(form, change["mean"], signed=True),
        "interval": f"{_write(form, change['low'], True)} to {_write(form, change['high'], True)}",
        "verdict": _verdict(change, better),
    }


def _verdict(change: dict[str, float], better: str) -> str:
    if change["low"] <= 0 <= change["high"]:
        return "no difference shown"
    if not better:
        return "more likely" if change["low"] > 0 else "less likely"
    return "better" if change["low"] > 0 else "worse"


def _write(form: str, value: float, signed: bool = False) -> str:
    sign = "+" if signed else ""
    text = f"{100 * value:{sign}.0f}" if form == "share" else f"{value:{sign}.3f}"
    unit = {"share": " pp" if signed else "%"}.get(form, "")
    return (text if float(text) else text.lstrip("+-")) + unit
