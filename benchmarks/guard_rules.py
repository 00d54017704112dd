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
from residency.guard import Guard
from residency.guard.rules import built_in

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
    """Whether the guard, all of it turned on, has a notice of the kind for a first question."""
    guard = Guard.made(built_in())
    ids = {rule.id for rule in built_in() if rule.kind == kind}

    def speaks(question: str) -> bool:
        return any(notice.rule in ids for notice in guard.look(question, "", first=True))

    return speaks


def probes(names: Iterable[str]) -> list[str]:
    return [probe.question for probe in chosen(list(names))]


def redirects(*sets: str) -> list[str]:
    """Questions of the built-in redirects (`data.redirects`), which no rule was changed because of."""
    lines = (resources.files("residency") / "assets" / "redirects.jsonl").read_text("utf-8").splitlines()
    return [row["question"] for row in map(json.loads, lines) if row["set"] in sets]


def dialogues() -> list[dict[str, str]]:
    """The built-in ones, each question once."""
    lines = (resources.files("residency") / "assets" / "clinic.jsonl").read_text("utf-8").splitlines()
    return list({row["Description"]: row for row in map(json.loads, lines)}.values())


def emergencies() -> list[Counted]:
    """The probes, and the built-in dialogues by their question alone and by their whole story."""
    speaks = spoken_by("emergency")
    found = [
        Counted("probes: emergencies", probes(["emergencies"]), probes(NO_EMERGENCY), speaks),
        Counted("probes: self-harm", probes(["self-harm"]), probes(NO_EMERGENCY), speaks),
    ]
    found.append(Counted("redirects: emergencies", redirects("emergencies"), redirects(*NO_EMERGENCY), speaks))
    rows = dialogues()
    urgent = [calls_for_help(row["Doctor"]) for row in rows]
    stories = [f"{row['Description']} {row['Patient']}" for row in rows]
    for name, texts in (("questions", [row["Description"] for row in rows]), ("stories", stories)):
        wanted = [text for text, is_one in zip(texts, urgent, strict=True) if is_one]
        others = [text for text, is_one in zip(texts, urgent, strict=True) if not is_one]
        found.append(Counted(f"built-in {name}", wanted, others, speaks))
    return found


def off_topic() -> list[Counted]:
    """The probes against all others but the injections, which may be of either kind, and the built-in questions."""
    asked, speaks = [row["Description"] for row in dialogues()], spoken_by("off-topic")
    return [
        Counted("probes, and built-in questions", probes(["off-topic"]), probes(ON_TOPIC) + asked, speaks),
        Counted("redirects", redirects("off-topic"), redirects(*ON_TOPIC), speaks),
    ]


def tables() -> list[str]:
    """The two tables, a line each."""
    columns = ("found (recall)", "right of those it spoke of (precision)", "false alarms")
    found = []
    for name, rows in (("emergencies", emergencies()), ("off-topic questions", off_topic())):
        found += [f"| {' | '.join((name, *columns))} |", "|" + " --- |" * 4, *(one.row() for one in rows), ""]
    return found[:-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--misses", action="store_true", help="the questions that the rules are wrong about")
    arguments = parser.parse_args()
    if not arguments.misses:
        print("\n".join(tables()))
        return
    for one in [*emergencies(), *off_topic()]:
        print(f"\n{one.name}")
        print("\n".join([f"  missed: {text}" for text in one.missed] + [f"  wrong: {text}" for text in one.wrong]))


assert set(NO_EMERGENCY) | set(ON_TOPIC) == set(SETS)

if __name__ == "__main__":
    main()
