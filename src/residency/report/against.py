"""All systems of an evaluation side by side, where it asked more than base and tuned: the report's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from residency.report.metrics import Metric

DASH = "–"


def against(evaluation: dict[str, Any] | None, metrics: Sequence[Metric]) -> dict[str, Any] | None:
    """Names of the systems, a row a score, how fast each was, what each is; None where base and tuned are all."""
    if not evaluation or not evaluation.get("others"):
        return None
    names = list(evaluation["systems"])
    return {
        "names": names,
        "rows": [_row(metric, names, evaluation) for metric in metrics if _measured(metric, evaluation)],
        "speeds": [_speed(name, evaluation["speeds"][name]) for name in names],
        "about": [{"name": name, **evaluation["about"][name]} for name in names],
    }


def _measured(metric: Metric, evaluation: dict[str, Any]) -> bool:
    return any(metric.key in own for own in evaluation["intervals"].values())


def _row(metric: Metric, names: list[str], evaluation: dict[str, Any]) -> dict[str, Any]:
    cells = []
    for name in names:
        value = evaluation["intervals"][name].get(metric.key)
        further = evaluation["others"].get(name, {}).get("tuned_minus", {})
        change = evaluation["differences"].get(metric.key) if name == "base" else further.get(metric.key)
        cells.append(
            {
                "name": name,
                "value": metric.write(value["mean"]) if value else DASH,
                "change": _change(metric, change) if change else "",
                "verdict": metric.verdict(change) if change else "",
            }
        )
    return {"metric": metric, "cells": cells}


def _change(metric: Metric, change: dict[str, float]) -> str:
    mean, low, high = (metric.write(change[name], signed=True) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _speed(name: str, speed: dict[str, Any]) -> dict[str, str]:
    return {
        "name": name,
        "first": f"{speed['first_token_seconds']:.2f} s",
        "whole": f"{speed['seconds']:.2f} s",
        "rate": f"{speed['tokens_per_second']:,.1f}",
        "tokens": f"{speed['tokens']:,}",
        "reasons": ", ".join(f"{count} {why}" for why, count in speed["stop_reasons"].items()),
    }
