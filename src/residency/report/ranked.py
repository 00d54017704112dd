"""The ratings of a run's systems: the report's tables, verdict and picture."""

from __future__ import annotations

from typing import Any

from residency.report import figures


def picture(ratings: dict[str, Any]) -> str:
    """Each system's ratings with their intervals, the best on top."""
    return figures.ratings(
        [one["system"] for one in ratings["systems"]],
        {
            "Bradley-Terry": [one["rating"] for one in ratings["systems"]],
            "Elo": [one["elo"] for one in ratings["systems"]],
        },
    )


def picture_alone(ratings: dict[str, Any]) -> str:
    """The picture as a file of its own, in the reader's light or dark."""
    return figures.light_and_dark(picture(ratings))


def systems(ratings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each system, best first, as texts."""
    return [
        {
            "rank": one["rank"],
            "system": one["system"],
            "rating": f"{one['rating']['value']:.0f}",
            "interval": _between(one["rating"]),
            "elo": f"{one['elo']['value']:.0f}",
            "elo_interval": _between(one["elo"]),
            "votes": f"{one['votes']:,}",
        }
        for one in ratings["systems"]
    ]


def pairs(ratings: dict[str, Any]) -> list[dict[str, str]]:
    """A row for each two systems that met, the higher rated first, as texts."""
    return [_pair(one) for one in ratings["pairs"] if one["share"]]


def told(ratings: dict[str, Any]) -> str:
    """Who voted, on what, and what was left out, in a few sentences."""
    source = ratings["source"]
    who = {
        "judge": f"by the model {source.get('model')}, asked twice about each pair with the places swapped",
        "metric": f"by {source.get('metric')} against the reference; within {source.get('margin')} points is a tie",
        "votes": "by people or models, from a file of votes",
    }[source["kind"]]
    sentences = [f"{ratings['votes']:,} votes on {ratings['questions']:,} questions, {who}."]
    judge = ratings.get("judge")
    if judge and judge["position_bias"] is not None:
        sentences.append(
            f"The judge chose by the place alone in {100 * judge['position_bias']:.0f}% of the pairs that it saw; "
            f"these are ties. {judge['unread']:,} of its verdicts could not be read."
        )
    if ratings["votes_left_out"]["undecided"] and not judge:
        sentences.append(f"{ratings['votes_left_out']['undecided']:,} votes decided nothing.")
    return " ".join(sentences)


def verdict(ratings: dict[str, Any]) -> tuple[str, str] | None:
    """One sentence on tuned against base with "good", "bad" or "open" before it; None where the two never met."""
    met = next((one for one in ratings["pairs"] if {one["a"], one["b"]} == {"base", "tuned"} and one["share"]), None)
    if met is None:
        return None
    value, *ends = (met["share"][key] for key in ("value", "low", "high"))
    if met["b"] == "tuned":
        value, ends = 1 - value, [1 - end for end in reversed(ends)]
    share = f"{100 * value:.0f}% of the votes"
    between = f"95% interval {100 * ends[0]:.0f} to {100 * ends[1]:.0f}%"
    if ends[0] > 0.5:
        return "good", f"The tuned model's answers are preferred to the base model's in {share} ({between})."
    if ends[1] < 0.5:
        return "bad", f"The tuned model's answers are preferred to the base model's in only {share} ({between})."
    return "open", f"No preference between base and tuned is shown: tuned has {share} ({between})."


def _pair(own: dict[str, Any]) -> dict[str, str]:
    return {
        "systems": f"{own['a']} against {own['b']}",
        "wins": f"{own['wins']:,}",
        "ties": f"{own['ties']:,}" + (f" ({own['both_bad']:,} both bad)" if own["both_bad"] else ""),
        "losses": f"{own['losses']:,}",
        "share": f"{100 * own['share']['value']:.0f}%",
        "interval": f"{100 * own['share']['low']:.0f} to {100 * own['share']['high']:.0f}%",
        "foreseen": f"{100 * own['foreseen']:.0f}%",
        "difference": f"{own['difference']['value']:+.0f}",
        "difference_interval": f"{own['difference']['low']:+.0f} to {own['difference']['high']:+.0f}",
        "shown": "shown" if own["difference"]["low"] > 0 else "no difference shown",
    }


def _between(spread: dict[str, float]) -> str:
    return f"{spread['low']:.0f} to {spread['high']:.0f}"
