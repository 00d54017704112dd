"""Which way to use, and what would change that: rules on a study's numbers, each said in a sentence.

1. A way beats the base where its answer NLL is shown to be lower, and neither its ROUGE-L is shown to be lower nor its
   loops to be more. "Shown" is a 95% interval of the paired difference without zero in it.
2. The best is the one with the lowest NLL among those that beat the base. Another of them is as good where it is shown
   to be worse in neither NLL nor ROUGE-L.
3. Of the best and those as good, the cheapest is used: seconds to build it and to answer 1,000 questions one at a time.
4. Where none beats the base, the base is used: there is nothing that a cost could be paid for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

HORIZON = 1000  # answers that the cost of a way is reckoned over
FASTER = 0.8  # of the seconds an answer takes: less difference than that is not worth a sentence
CALLED = {  # labels inside a sentence, where they are not as they are
    "Base model": "the base model",
    "Written instruction": "a written instruction",
    "Few-shot": "a few-shot prompt",
    "Retrieval by BM25": "retrieval by BM25",
    "Retrieval by embeddings": "retrieval by embeddings",
    "Hybrid retrieval": "hybrid retrieval",
    "Full fine-tuning": "full fine-tuning",
    "Tuned with retrieval": "the tuned model with retrieval",
}
Ways = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """The way to use; whether that is a fine-tuned model (None where none was tried); and why, in sentences."""

    use: str
    worth_it: bool | None
    headline: str
    because: list[str]
    would_change: list[str]


def verdict(ways: Ways, questions: int) -> Verdict:
    """The verdict over ways of a study: label, trains, quality, less, build and answer, as study.json has them."""
    tried = any(way["trains"] for way in ways.values())
    winners = {name: way for name, way in ways.items() if name != "base" and _beats_base(way)}
    if not winners:
        return _nothing_beats(ways, questions, tried)
    best = min(winners, key=lambda name: _nll(winners[name]))
    equals = [name for name in winners if name == best or not _worse(winners[name], best)]
    use = min(equals, key=lambda name: cost(winners[name]))
    own = ways[use]
    worth = own["trains"] if tried else None
    return Verdict(
        use, worth, _headline(own, worth), _because(ways, use, equals), _would_change(ways, use, winners, equals)
    )


def cost(way: dict[str, Any], answers: int = HORIZON) -> float:
    """Seconds to build a way and to give so many answers, one at a time."""
    return float(way["build"]["seconds"] + answers * way["answer"]["alone_seconds"])


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.01 else "no time"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min" if minutes >= 10 else f"{minutes:.1f} min"
    return f"{minutes / 60:.1f} h"


def _beats_base(way: dict[str, Any]) -> bool:
    less = way["less"]["base"]
    return bool(less["answer_nll"]["high"] < 0 and less["rouge_l"]["high"] >= 0 and less["repetition"]["low"] <= 0)


def _worse(way: dict[str, Any], than: str) -> bool:
    less = way["less"][than]
    return bool(less["answer_nll"]["low"] > 0 or less["rouge_l"]["high"] < 0)


def _nll(way: dict[str, Any]) -> float:
    return float(way["quality"]["answer_nll"]["mean"])


def _headline(way: dict[str, Any], worth: bool | None) -> str:
    name = _called(way)
    if worth is None:
        return f"Of what was tried, use {name}; fine-tuning was not among it."
    if worth:
        return f"Fine-tuning is worth it here: use {name}."
    return f"Fine-tuning is not worth it here: use {name}, which needs no training."


def _because(ways: Ways, use: str, equals: list[str]) -> list[str]:
    own, less = ways[use], ways[use]["less"]["base"]
    nll, rouge = less["answer_nll"], less["rouge_l"]
    found = [
        f"It foresees the held-out answers better than the base model by {-nll['mean']:.2f} nats a token "
        f"(95% interval {-nll['high']:.2f} to {-nll['low']:.2f}); ROUGE-L changes by {_signed(rouge)}.",
        f"{_takes(own)}; the base model takes {duration(ways['base']['answer']['alone_seconds'])} an answer.",
    ]
    for name in equals:
        if name != use:
            gap = ways[name]["less"][use]["answer_nll"]
            theirs, mine = duration(cost(ways[name])), duration(cost(own))
            costs = (
                f"{theirs} with it, building included, against {mine}" if theirs != mine else f"about {mine} with both"
            )
            found.append(
                f"{ways[name]['label']} is as good as far as these questions show (NLL {_signed(gap, 2)}); "
                f"{HORIZON:,} answers take {costs}."
            )
    return found


def _would_change(ways: Ways, use: str, winners: Ways, equals: list[str]) -> list[str]:
    own = ways[use]
    found = [sentence for name in equals if name != use and (sentence := _break_even(ways[name], own))]
    if own["trains"]:
        found.append(_if_rows_change(own, winners, use))
    faster = [name for name in ("base", *winners) if _alone(ways[name]) < FASTER * _alone(own)]
    if faster:
        name = min(faster, key=lambda one: _nll(ways[one]))
        found.append(
            f"If an answer must come within {duration(_alone(own))}, {_called(ways[name])} gives one in "
            f"{duration(_alone(ways[name]))} (NLL {_signed(ways[name]['less'][use]['answer_nll'], 2)})."
        )
    lighter = [name for name in winners if _memory(winners[name]) < FASTER * _memory(own)]
    if lighter:
        name = min(lighter, key=lambda one: _nll(winners[one]))
        found.append(
            f"With less than {_gib(own)} of memory to build with, {_called(ways[name])} takes {_gib(ways[name])} "
            f"(NLL {_signed(ways[name]['less'][use]['answer_nll'], 2)})."
        )
    liked = [name for name in winners if name != use and winners[name]["less"][use]["rouge_l"]["low"] > 0]
    if liked:
        name = max(liked, key=lambda one: winners[one]["quality"]["rouge_l"]["mean"])
        found.append(
            f"By the answers' own words it would be {_called(ways[name])}: ROUGE-L "
            f"{_signed(ways[name]['less'][use]['rouge_l'])}."
        )
    return found


def _break_even(other: dict[str, Any], own: dict[str, Any]) -> str:
    """At how many answers the other, as good, becomes the cheaper one; empty where at none."""
    dearer = other["build"]["seconds"] - own["build"]["seconds"]
    saved = _alone(own) - _alone(other)
    if dearer * saved <= 0:
        return ""
    count = _round(dearer / saved)
    return f"For {'more' if saved > 0 else 'fewer'} than about {count:,} answers {_called(other)} is the cheaper one."


def _if_rows_change(own: dict[str, Any], winners: Ways, use: str) -> str:
    untrained = {name: way for name, way in winners.items() if not way["trains"]}
    again = f"training again takes {duration(own['build']['seconds'])} each time"
    if not untrained:
        return f"If the rows change often, {again}, and nothing without training beats the base model."
    name = min(untrained, key=lambda one: _nll(untrained[one]))
    less = untrained[name]["less"][use]["answer_nll"]
    return (
        f"If the rows change often, {again}; {_called(untrained[name])} takes new ones up in "
        f"{duration(untrained[name]['build']['seconds'])} (NLL {_signed(less, 2)})."
    )


def _nothing_beats(ways: Ways, questions: int, tried: bool) -> Verdict:
    headline = (
        "Don't fine-tune here: nothing that was tried is shown to beat the base model."
        if tried
        else "Of what was tried, nothing is shown to beat the base model; fine-tuning was not among it."
    )
    others = {name: way for name, way in ways.items() if name != "base"}
    change = []
    if others:
        name = min(others, key=lambda one: others[one]["less"]["base"]["answer_nll"]["mean"])
        change.append(_nearest(others[name], questions))
    because = [f"The base model takes {duration(_alone(ways['base']))} an answer, and nothing to build."]
    return Verdict("base", False if tried else None, headline, because, change)


def _nearest(way: dict[str, Any], questions: int) -> str:
    """The way that came nearest to beating the base, and what kept it from that."""
    nll, rouge, loops = (way["less"]["base"][metric] for metric in ("answer_nll", "rouge_l", "repetition"))
    if nll["high"] < 0:
        what = (
            f"its ROUGE-L falls by {_signed(rouge)}" if rouge["high"] < 0 else f"loops come {_points(loops)} more often"
        )
        return f"{way['label']} foresees the answers better (NLL {_signed(nll, 2)}), but {what}: mend that first."
    if nll["mean"] >= 0:
        return (
            f"Even the best of the others, {_called(way)}, is no better on these {questions} questions "
            f"(NLL {_signed(nll, 2)}): more or better rows, or a larger base model, would have to change that."
        )
    needed = _round(questions * ((nll["high"] - nll["low"]) / 2 / nll["mean"]) ** 2)
    return (
        f"{way['label']} came nearest (NLL {_signed(nll, 2)}); if its gain is what it seems, about {needed:,} "
        f"questions instead of {questions} would show it."
    )


def _takes(way: dict[str, Any]) -> str:
    build, answer = way["build"], way["answer"]
    tokens = f"{answer['prompt_tokens']:.0f} tokens of prompt and {answer['new_tokens']:.0f} new ones"
    start = f"It takes {duration(build['seconds'])}"
    start += f" and {_gib(way)} of memory to build" if build["seconds"] >= 0.01 else " to build"
    return f"{start}, then {duration(answer['alone_seconds'])} an answer, of {tokens}"


def _called(way: dict[str, Any]) -> str:
    """The label inside a sentence."""
    label: str = way["label"]
    return CALLED.get(label, label)


def _alone(way: dict[str, Any]) -> float:
    return float(way["answer"]["alone_seconds"])


def _memory(way: dict[str, Any]) -> float:
    return float(way["build"]["peak_bytes"])


def _gib(way: dict[str, Any]) -> str:
    return f"{way['build']['peak_bytes'] / 2**30:.1f} GiB"


def _signed(one: dict[str, float], digits: int = 1) -> str:
    mean, low, high = (_plain(f"{one[part]:+.{digits}f}") for part in ("mean", "low", "high"))
    return f"{mean}, 95% interval {low} to {high}"


def _points(one: dict[str, float]) -> str:
    return f"{100 * one['mean']:.0f} percentage points (95% interval {100 * one['low']:.0f} to {100 * one['high']:.0f})"


def _plain(text: str) -> str:
    return text if float(text) else text.lstrip("+-")


def _round(count: float) -> int:
    """A count to two figures: more would pretend to be known."""
    figures = max(len(str(ceil(count))) - 2, 0)
    return max(round(ceil(count), -figures), 1)
