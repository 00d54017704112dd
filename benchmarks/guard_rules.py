"""How well the guard tells emergencies and off-topic questions: precision and recall on probes and built-in data.

    python benchmarks/guard_rules.py            the tables of docs/guard.md
    python benchmarks/guard_rules.py --misses   what was missed, and what was taken for one and is none

Needs no model and takes seconds. Intervals are Wilson's, 95%. A built-in question is an emergency where
its reference begins with a call for help (`calls` in assets/unsafe.yaml): what a person wrote, read by a rule.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources

from residency.evaluate.behaviour.probes import SETS, chosen
from residency.evaluate.faults.report import wilson
from residency.evaluate.faults.unsafe import calls_for_help
from residency.guard.rules import Rule, built_in

NO_EMERGENCY = ("off-topic", "medication", "identity", "injection")
ON_TOPIC = ("emergencies", "medication", "self-harm", "identity")


@dataclass(frozen=True)
class Counted:
    """What a kind of rule says of some questions: those that it should speak of, and the others."""

    name: str
    wanted: list[str]
    others: list[str]
    speaks: Callable[[str], bool]

    @property
    def missed(self) -> list[str]:
        return [question for question in self.wanted if not self.speaks(question)]

    @property
    def wrong(self) -> list[str]:
        return [question for question in self.others if self.speaks(question)]

    def row(self) -> str:
        found, wrong = len(self.wanted) - len(self.missed), len(self.wrong)
        cells = [self.name, share(found, len(self.wanted)), share(found, found + wrong), share(wrong, len(self.others))]
        return "| " + " | ".join(cells) + " |"


def share(count: int, total: int) -> str:
    """`41 of 44: 93% (82 to 98)`."""
    if not total:
        return "–"
    low, high = wilson(count, total)
    return f"{count} of {total}: {100 * count / total:.0f}% ({100 * low:.0f} to {100 * high:.0f})"


def spoken_by(kind: str) -> Callable[[str], bool]:
    """Whether a rule of the kind speaks of a first question."""
    rules = [rule for rule in built_in() if rule.kind == kind]

    def speaks(question: str) -> bool:
        return any(_asks(rule, question) for rule in rules)

    return speaks


def _asks(rule: Rule, question: str) -> bool:
    return rule.speaks(question, "" if rule.unless_answer else None, first=True)


def probes(names: Iterable[str]) -> list[str]:
    return [probe.question for probe in chosen(list(names))]


def dialogues(half: int | None = None) -> list[dict[str, str]]:
    """The built-in ones, each question once; `half` takes those of even (0) or odd (1) places."""
    lines = (resources.files("residency") / "assets" / "clinic.jsonl").read_text("utf-8").splitlines()
    once = {row["Description"]: row for row in map(json.loads, lines)}
    rows = list(once.values())
    return rows if half is None else rows[half::2]


def emergencies() -> list[Counted]:
    speaks = spoken_by("emergency")
    found = [
        Counted("probes: emergencies", probes(["emergencies"]), probes(NO_EMERGENCY), speaks),
        Counted("probes: self-harm", probes(["self-harm"]), probes(NO_EMERGENCY), speaks),
    ]
    for half, name in enumerate(("looked at", "not looked at")):
        for told in (False, True):
            rows = dialogues(half)
            texts = [f"{row['Description']} {row['Patient']}" if told else row["Description"] for row in rows]
            urgent = [calls_for_help(row["Doctor"]) for row in rows]
            wanted = [text for text, is_one in zip(texts, urgent, strict=True) if is_one]
            others = [text for text, is_one in zip(texts, urgent, strict=True) if not is_one]
            found.append(Counted(f"built-in {'stories' if told else 'questions'}, {name}", wanted, others, speaks))
    return found


def off_topic() -> list[Counted]:
    speaks = spoken_by("off-topic")
    asked = [row["Description"] for row in dialogues()]
    return [Counted("off-topic", probes(["off-topic"]), probes(ON_TOPIC) + asked, speaks)]


def tables() -> list[str]:
    """The two tables, a line each."""
    head = [
        "| questions | found (recall) | right of those it spoke of (precision) | false alarms |",
        "|" + " --- |" * 4,
    ]
    return [*head, *(one.row() for one in emergencies()), "", *head, *(one.row() for one in off_topic())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--misses", action="store_true", help="the questions that the rules are wrong about")
    parser.add_argument("--sets", default="", help="of --misses: only names that begin with one of these, by commas")
    arguments = parser.parse_args()
    if not arguments.misses:
        print("\n".join(tables()))
        return
    wanted = tuple(arguments.sets.split(","))
    for one in (one for one in [*emergencies(), *off_topic()] if one.name.startswith(wanted)):
        print(f"\n{one.name}")
        print("\n".join([f"  missed: {text}" for text in one.missed] + [f"  wrong: {text}" for text in one.wrong]))


assert set(NO_EMERGENCY) | set(ON_TOPIC) == set(SETS)

if __name__ == "__main__":
    main()
