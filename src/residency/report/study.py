"""A study as one self-contained page: what to use, the table, quality against cost, and answers side by side."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from residency.report.metrics import METRICS, Metric
from residency.report.template import template
from residency.report.trade import Point, trade

SHOWN = ("answer_nll", "rouge_l", "chrf", "stopped", "repetition")
EXAMPLES = 3


def page(study: dict[str, Any], examples: list[dict[str, Any]]) -> str:
    """The page of what study.json holds; an example has question, row, reference, and `answers` by way."""
    return str(
        template("study.html").render(
            study=study,
            rows=[_row(name, way) for name, way in study["ways"].items()],
            metrics=_metrics(),
            pictures={name: Markup(picture) for name, picture in pictures(study).items()},
            examples=examples,
        )
    )


def pictures(study: dict[str, Any]) -> dict[str, str]:
    """Quality against cost as SVG: NLL against seconds to build, ROUGE-L against seconds an answer."""
    ways, use = study["ways"], study["verdict"]["use"]
    return {
        "build": trade(
            _points(ways, use, "answer_nll", lambda way: way["build"]["seconds"]),
            "seconds to build",
            "answer NLL, nats a token (lower is better)",
            from_nothing=True,
            salt="build",
        ),
        "answer": trade(
            _points(ways, use, "rouge_l", lambda way: way["answer"]["alone_seconds"]),
            "seconds an answer, one at a time",
            "ROUGE-L (higher is better)",
            from_nothing=False,
            salt="answer",
        ),
    }


def markdown(study: dict[str, Any]) -> str:
    """The table as Markdown, for documents."""
    head = ["way", *(f"{metric.label}, 95% interval" for metric in _metrics()[:2]), "less than base, NLL"]
    head += [
        "chrF",
        "stops",
        "loops",
        "build, s",
        "peak, GiB",
        "s an answer, alone",
        "in a batch",
        "tokens, prompt + new",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, way in study["ways"].items():
        row = _row(name, way)
        scores = row["scores"]
        cells = [f"**{row['label']}**" if name == study["verdict"]["use"] else row["label"]]
        cells += [f"{scores[key]['value']} ({scores[key]['interval']})" for key in SHOWN[:2]]
        cells += [scores["answer_nll"]["less"], *(scores[key]["value"] for key in SHOWN[2:])]
        cells += [row["build"], row["memory"], row["alone"], row["batch"], row["tokens"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _metrics() -> list[Metric]:
    return [metric for metric in METRICS if metric.key in SHOWN]


def _points(ways: dict[str, Any], use: str, metric: str, cost: Any) -> list[Point]:
    return [
        Point(way["label"], cost(way), **way["quality"][metric], trained=way["trains"], used=name == use)
        for name, way in ways.items()
    ]


def _row(name: str, way: dict[str, Any]) -> dict[str, Any]:
    """A way's row of the table, as texts."""
    build, answer = way["build"], way["answer"]
    return {
        "name": name,
        "label": way["label"],
        "decoding": way["decoding"]["name"],
        "before": f"{way['taken']:,} of {way['proposed']:,} fitted" if way["proposed"] else "",
        "scores": {metric.key: _score(metric, way) for metric in _metrics()},
        "build": f"{build['seconds']:,.1f}" if build["seconds"] else "0",
        "memory": f"{build['peak_bytes'] / 2**30:.1f}" if build["peak_bytes"] else "",
        "alone": f"{answer['alone_seconds']:.2f}",
        "batch": f"{answer['batch_seconds']:.2f}",
        "tokens": f"{answer['prompt_tokens']:.0f} + {answer['new_tokens']:.0f}",
    }


def _score(metric: Metric, way: dict[str, Any]) -> dict[str, str]:
    own, less = way["quality"][metric.key], way["less"].get("base")
    found = {
        "value": metric.write(own["mean"]),
        "interval": f"{metric.write(own['low'])} to {metric.write(own['high'])}",
        "less": "",
        "verdict": "",
    }
    if less:
        change = less[metric.key]
        low, high = metric.write(change["low"], True), metric.write(change["high"], True)
        found["less"] = f"{metric.write(change['mean'], True)} ({low} to {high})"
        found["verdict"] = metric.verdict(change)
    return found
