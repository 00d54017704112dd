"""The report stage: what a run holds, as `report.json` for programs and `report.html` for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from residency.report import behaviour, faults, figures, forgotten, preferred, ranked
from residency.report.against import against
from residency.report.metrics import GROUPS, METRICS, Metric, shown, standing
from residency.report.template import template
from residency.workspace import Run

FIRST_ANSWERS = 6  # shown open; the rest unfolds


def report(run: Run) -> Path:
    """Write `report.json` and `report.html` from whatever stages the run has been through; returns the page's path.

    Raises:
        UserError: the run was not even prepared.
    """
    content = {
        "name": run.recipe.name,
        "recipe": run.recipe.model_dump(mode="json"),
        "data": run.read_json("data/report.json", "prepare"),
        "train": _maybe(run, "train.json"),
        "evaluate": _maybe(run, "evaluation/scores.json"),
        "ratings": _maybe(run, "evaluation/ratings.json"),
        "behaviour": _maybe(run, "evaluation/behaviour.json"),
        "benchmark": _maybe(run, "evaluation/benchmarks.json"),
    }
    metrics = run.read_jsonl("metrics.jsonl", "train") if content["train"] else []
    answers = run.read_jsonl("evaluation/answers.jsonl", "evaluate") if content["evaluate"] else []
    pictures = _pictures(content, metrics)
    for name, picture in pictures.items():
        run.write_text(f"figures/{name}.svg", figures.alone(picture))
    run.write_json("report.json", content)
    page = template("page.html").render(
        **content,
        pictures={name: Markup(picture) for name, picture in pictures.items()},
        scores=score_rows(content["evaluate"]) if content["evaluate"] else [],
        groups=GROUPS,
        verdicts=_verdicts(content),
        preference=_preference(content),
        against=against(content["evaluate"], METRICS),
        ranking=_ranking(content["ratings"]),
        faults=faults.section(run),
        stays=behaviour.shown(content["behaviour"], run.read_jsonl("evaluation/behaviour.jsonl", "behaviour"))
        if content["behaviour"]
        else None,
        benchmarks=_benchmarks(content),
        answers=answers,
        first=FIRST_ANSWERS,
        recipe_yaml=run.recipe.dump(),
    )
    return run.write_text("report.html", page)


def _verdicts(content: dict[str, Any]) -> list[tuple[str, str]]:
    found = verdicts(content["evaluate"]) if content["evaluate"] else []
    measured = content["train"] and content["train"].get("preference")
    sentence = preferred.verdict(measured) if measured else None
    ranking = ranked.verdict(content["ratings"]) if content["ratings"] else None
    lost = forgotten.verdict(content["benchmark"]) if content["benchmark"] else None
    return [one for one in (sentence, ranking) if one] + found + ([lost] if lost else [])


def _preference(content: dict[str, Any]) -> dict[str, Any] | None:
    """What the page says of preferences; None where none were learnt, or no pair was held out."""
    measured = content["train"] and content["train"].get("preference")
    split = preferred.held_out(measured) if measured else None
    return {"split": split, "rows": preferred.rows(measured)} if split else None


def _benchmarks(content: dict[str, Any]) -> dict[str, Any] | None:
    """What the page says of public benchmarks; None where none were asked."""
    measured = content["benchmark"]
    return {"rows": forgotten.rows(measured), "quick": forgotten.quick(measured)} if measured else None


def _ranking(ratings: dict[str, Any] | None) -> dict[str, Any] | None:
    if ratings is None:
        return None
    return {"told": ranked.told(ratings), "systems": ranked.systems(ratings), "pairs": ranked.pairs(ratings)}


def score_rows(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each metric that was measured: both systems, the difference with its interval, and what it shows."""
    rows = []
    for metric in METRICS:
        difference = evaluation["differences"].get(metric.key)
        if difference is None:
            continue
        rows.append(
            {
                "metric": metric,
                "base": metric.write(evaluation["systems"]["base"][metric.key]),
                "tuned": metric.write(evaluation["systems"]["tuned"][metric.key]),
                "difference": metric.write(difference["mean"], signed=True),
                "interval": f"{metric.write(difference['low'], True)} to {metric.write(difference['high'], True)}",
                "verdict": _verdict(metric, difference),
                "standing": standing(evaluation, metric.key),
                "whisker": _whisker(difference),
            }
        )
    return rows


def verdicts(evaluation: dict[str, Any]) -> list[tuple[str, str]]:
    """The run in a few sentences, each with "good", "bad" or "open" before it."""
    base, tuned = evaluation["systems"]["base"], evaluation["systems"]["tuned"]
    nll = evaluation["differences"]["answer_nll"]
    found_of = _verdict(METRICS[0], nll)
    size = f"{abs(nll['mean']):.2f} nats a token (95% interval {abs(nll['high']):.2f} to {abs(nll['low']):.2f})"
    found = {
        "better": ("good", f"The tuned model foresees held-out answers better than the base, by {size}."),
        "worse": ("bad", f"The tuned model foresees held-out answers worse than the base, by {size}."),
    }.get(found_of, ("open", "No difference shown between base and tuned on the held-out answers."))
    stops, loops = 100 * tuned["stopped"], 100 * tuned["repetition"]
    return [
        found,
        (
            "good" if stops >= 90 else "bad",
            f"{stops:.0f}% of its answers end by themselves; of the base model's, {100 * base['stopped']:.0f}%.",
        ),
        (
            "good" if loops <= 5 else "bad",
            f"{loops:.0f}% are caught in a loop; of the base model's, {100 * base['repetition']:.0f}%.",
        ),
    ]


def _verdict(metric: Metric, difference: dict[str, float]) -> str:
    if not shown(difference):
        return "no difference shown"
    more, less = ("longer", "shorter") if metric.key.startswith("length") else ("higher", "lower")
    return metric.verdict(difference) or (more if difference["low"] > 0 else less)


def _whisker(difference: dict[str, float]) -> dict[str, float]:
    """Places of low, mean, high in per cent of a bar whose middle is zero."""
    reach = 1.1 * max(abs(difference["low"]), abs(difference["high"]), 1e-9)
    return {key: 50 + 50 * difference[key] / reach for key in ("low", "mean", "high")}


def _pictures(content: dict[str, Any], metrics: list[dict[str, Any]]) -> dict[str, str]:
    found = {"lengths": figures.lengths(content["data"]["lengths"], content["recipe"]["model"]["max_length"])}
    if content["ratings"]:
        found["ratings"] = ranked.picture(content["ratings"])
    if metrics:
        unit = "loss (nats a pair)" if content["train"].get("preference") else "loss (nats a token)"
        found["loss"] = figures.loss(metrics, content["train"]["best_step"], unit)
        points = preferred.points(metrics)
        if all(points.values()):
            found["rewards"] = figures.rewards(points)
        found["learning_rate"] = figures.learning_rate(metrics)
    return found


def _maybe(run: Run, name: str) -> Any:
    return run.read_json(name, "") if (run.folder / name).is_file() else None
