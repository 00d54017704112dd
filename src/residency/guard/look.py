"""Which notices a question and its answer call for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from residency.guard import rules as reading
from residency.guard.rules import Rule

if TYPE_CHECKING:
    from residency.recipe import Recipe

Where = Literal["question", "answer", "conversation"]

SWITCHES = {"emergencies": "emergency", "not_a_doctor": "once", "role": "off-topic", "answers": "answer"}
ORDER = ("emergency", "question", "answer", "off-topic", "once")  # what is urgent stands first


@dataclass(frozen=True)
class Notice:
    """What a rule has to say, and what it saw; `reply` is an answer that it offers, which nothing takes by itself."""

    rule: str
    notice: str
    where: Where
    urgent: bool = False
    reply: str = ""

    def entry(self) -> dict[str, str]:
        """As an answer's metadata has it: rule and notice, and the reply where one is offered."""
        return {"rule": self.rule, "notice": self.notice} | ({"reply": self.reply} if self.reply else {})


@dataclass(frozen=True)
class Guard:
    """The rules that a recipe turns on, the urgent ones first."""

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, recipe: Recipe) -> Guard | None:
        """The guard that a recipe asks for, or None where it asks for none.

        A rule of `guard.rules` with the id of a built-in one takes its place.

        Raises:
            UserError: the file of `guard.rules` can't be read, or a rule in it is wrong.
        """
        section = recipe.guard
        wanted = {kind for switch, kind in SWITCHES.items() if getattr(section, switch)}
        found = {rule.id: rule for rule in reading.built_in() if rule.kind in wanted}
        if section.rules:
            found |= {rule.id: rule for rule in reading.read(Path(section.rules).expanduser())}
        return cls.made(found.values()) if found else None

    @classmethod
    def made(cls, rules: Iterable[Rule]) -> Guard:
        """A guard of these rules."""
        return cls(tuple(sorted(rules, key=lambda rule: ORDER.index(rule.kind))))

    def look(self, question: str, answer: str | None = None, first: bool = False) -> list[Notice]:
        """The notices for a question and its answer, the urgent ones first; empty where there is nothing to say.

        Without an answer, those that the question alone decides. `first`: nothing was answered in the conversation
        before. Of several rules with the same words, the first one speaks, and none offers a redirect in an emergency.
        """
        found: dict[str, Notice] = {}
        for rule in self.rules:
            if rule.speaks(question, answer, first):
                where: Where = (
                    "conversation" if rule.kind == "once" else "answer" if rule.kind == "answer" else "question"
                )
                notice = Notice(rule.id, rule.notice, where, rule.kind == "emergency", rule.reply)
                found.setdefault(rule.notice, notice)
        urgent = any(notice.urgent for notice in found.values())
        return [notice for notice in found.values() if not (urgent and notice.reply)]
