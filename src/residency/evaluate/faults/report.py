"""What was found as `evaluation/faults.json`: shares with intervals, differences, kinds of questions, examples."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from residency.evaluate.faults.cases import Case
from residency.evaluate.faults.causes import OF_TRAINING, Evidence, causes
from residency.evaluate.faults.find import PEOPLE, Found, counted
from residency.evaluate.faults.nearest import Nearest, shortened
from residency.evaluate.faults.remedies import Change, advice, remedies
from residency.evaluate.faults.rules import CATEGORIES, Category
from residency.evaluate.faults.rules import found as by_rules
from residency.evaluate.scores import score

EXAMPLES = 5  # answers of a category and system that are shown
WORTH = 0.05  # share of the tuned model's answers from which a recipe change is worth a run
LEAST = 2  # answers from which it is
LONGEST = 600  # characters of an answer that is shown


def summary(found: Found, evidence: Evidence, near: Nearest, resamples: int) -> dict[str, Any]:
    """Everything of `faults.json` but what says where it comes from."""
    return {
        "questions": len(found.asked),
        "systems": list(found.systems),
        "kinds": counted([one.kind for one in found.asked]),
        "judge": {"model": found.judge, "unparsable": found.unparsable} if found.judge else None,
        "nearest": near.note,
        "categories": [_category(found, category, evidence, near, resamples) for category in CATEGORIES.values()],
        "worth": worth_a_change(found),
        "answers": [
            {"row": one.row, "kind": one.kind} | {name: found.of(name, place) for name in found.systems}
            for place, one in enumerate(found.asked)
        ],
    }


def worth_a_change(found: Found, system: str = "tuned") -> list[str]:
    """The categories that 5% of a system's answers have, and two at least; the commonest first."""
    counts = {}
    for name in CATEGORIES if system in found.systems else ():
        marks = [mark for mark in found.marks(system, name) if not math.isnan(mark)]
        if sum(marks) >= max(LEAST, WORTH * len(marks)):
            counts[name] = sum(marks)
    return sorted(counts, key=lambda name: -counts[name])


def difference(one: list[float], other: list[float], resamples: int) -> dict[str, float] | None:
    """The paired difference `one` minus `other` with its 95% interval, over what both have; None for nothing."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if not (math.isnan(a) or math.isnan(b))]
    if not pairs:
        return None
    draws = score.resample(len(pairs), resamples)
    return asdict(score.difference([a for a, _ in pairs], [b for _, b in pairs], draws))


def share(marks: list[float]) -> dict[str, Any] | None:
    """How many of how many have a fault, the share and its 95% interval (Wilson 1927); None where none was checked.

    The bootstrap would say of 0 in 40 that it is certain; Wilson's interval says 0% to 9%.
    """
    checked = [mark for mark in marks if not math.isnan(mark)]
    if not checked:
        return None
    low, high = wilson(int(sum(checked)), len(checked))
    return {
        "count": int(sum(checked)),
        "of": len(checked),
        "share": sum(checked) / len(checked),
        "low": low,
        "high": high,
    }


def wilson(count: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The ends of Wilson's interval for `count` of `total`; 95% by default."""
    middle = (count + z * z / 2) / (total + z * z)
    half = z / (total + z * z) * math.sqrt(count * (total - count) / total + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def _category(found: Found, category: Category, evidence: Evidence, near: Nearest, resamples: int) -> dict[str, Any]:
    marks = {name: found.marks(name, category.name) for name in (*found.systems, PEOPLE)}
    shares = {name: share(own) for name, own in marks.items()}
    both = {"base", "tuned"} <= set(found.systems)
    concerned = shares.get("tuned") or shares[found.systems[-1]]
    faulty = bool(concerned and concerned["count"])
    return {
        "name": category.name,
        "meaning": category.meaning,
        "checked": any(shares[name] for name in found.systems),
        "systems": shares,
        "difference": difference(marks["tuned"], marks["base"], resamples) if both else None,
        "kinds": _kinds(found, marks),
        "examples": [e for name in reversed(found.systems) for e in _examples(found, category.name, name, near)],
        "causes": causes(category.name, evidence) if faulty else [],
        "remedies": [_shown(change) for change in remedies(category.name, evidence)[0]] if faulty else [],
        "advice": advice(category.name) if faulty else "",
    }


def _shown(change: Change) -> dict[str, Any]:
    return asdict(change) | {"shown": change.shown()}


def _kinds(found: Found, marks: dict[str, list[float]]) -> dict[str, dict[str, int]]:
    """How many answers of each kind of question have the fault, by system."""
    kinds = [one.kind for one in found.asked]
    return {
        kind: {"questions": kinds.count(kind)}
        | {
            name: int(sum(mark for mark, own in zip(marks[name], kinds, strict=True) if own == kind and mark == 1))
            for name in found.systems
        }
        for kind in counted(kinds)
    }


def _nearest(case: Case, category: str, near: Nearest) -> list[dict[str, Any]]:
    """The nearest training examples; `same` says whether they have the fault too, None where a rule can't tell."""
    rules = CATEGORIES[category] if category in OF_TRAINING else None
    return [
        {
            "row": row.row,
            "question": shortened(row.question),
            "answer": shortened(row.answer),
            "score": round(score, 2),
            "same": bool(by_rules(rules, Case(row.question, row.answer, known=case.known))) if rules else None,
        }
        for row, score in near.to(case.question, case.text)
    ]


def _examples(found: Found, category: str, system: str, near: Nearest) -> list[dict[str, Any]]:
    places = [place for place, reasons in enumerate(found.reasons[system][category]) if reasons][:EXAMPLES]
    return [
        {
            "system": system,
            "row": found.asked[place].row,
            "kind": found.asked[place].kind,
            "question": shortened(found.asked[place].question),
            "answer": shortened(found.asked[place].cases[system].text, LONGEST),
            "reasons": found.reasons[system][category][place],
            "nearest": _nearest(found.asked[place].cases[system], category, near),
        }
        for place in places
    ]
