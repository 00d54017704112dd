"""What in the recipe to change against a fault; each change is tried on the recipe's own rules before it is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from residency.errors import UserError
from residency.evaluate.faults.causes import Evidence
from residency.guard.unsafe import cautions
from residency.recipe import Recipe

LONGEST_ANSWER = 1000  # tokens that evaluate.max_new_tokens is raised to, at most
ROUND = 50  # tokens that it is rounded up to
CAREFUL = (
    "You answer questions about health. Say when a doctor, a pharmacist or an emergency service is needed, and name no "
    "dose without saying with whom to check it."
)


@dataclass(frozen=True)
class Change:
    """One key of a recipe, what it was, what it should be, and why."""

    key: str
    old: Any
    new: Any
    why: str

    def shown(self) -> str:
        """What changes, on one line; of a list what is added to it."""
        if isinstance(self.old, list) and isinstance(self.new, list):
            return f"{self.key}: add " + ", ".join(str(one) for one in self.new if one not in self.old)
        return f"{self.key}: {_plain(self.old)} -> {_plain(self.new)}"

    def was(self) -> str:
        """What the recipe had; of a list what it had not."""
        if isinstance(self.old, list) and isinstance(self.new, list):
            return "without " + ", ".join(str(one) for one in self.new if one not in self.old)
        return f"was {_plain(self.old)}"


Remedy = Callable[[Evidence], tuple[str, Any, str] | None]


def remedies(category: str, evidence: Evidence) -> tuple[list[Change], Recipe]:
    """The changes against a category, the first first, and the recipe with all of them.

    A change that the recipe has already, or refuses, is left out.
    """
    recipe, made = evidence.recipe, []
    for remedy in _AGAINST.get(category, ()):
        proposed = remedy(replace(evidence, recipe=recipe))
        changed = proposed and _changed(recipe, *proposed)
        if changed:
            change, recipe = changed
            made.append(change)
    return made, recipe


def together(categories: Sequence[str], evidence: Evidence) -> tuple[list[Change], Recipe]:
    """The changes against several categories, the gravest first: a key that one has set is not set again by the next.

    What is added to a list (data.clean, data.drop, data.closings) adds up, as one change.
    """
    recipe = evidence.recipe
    made: dict[str, Change] = {}
    for category in categories:
        for change in remedies(category, replace(evidence, recipe=recipe))[0]:
            before = made.get(change.key)
            if before and not isinstance(change.new, list):
                continue
            changed = _changed(recipe, change.key, change.new, change.why)
            if changed:
                recipe = changed[1]
                why = change.why if before is None else f"{before.why}; {change.why}"
                made[change.key] = replace(change, old=before.old if before else change.old, why=why)
    return list(made.values()), recipe


def advice(category: str) -> str:
    """What is left to do by hand, where no key of the recipe does it."""
    return _BY_HAND.get(category, "")


def _changed(recipe: Recipe, key: str, new: Any, why: str) -> tuple[Change, Recipe] | None:
    values = recipe.model_dump(mode="json")
    *parents, last = key.split(".")
    section: Any = values
    for parent in parents:
        section = section.get(parent)
        if section is None:
            return None
    if last not in section or section[last] == new:
        return None
    old, section[last] = section[last], new
    try:
        return Change(key, old, new, why), Recipe.parse(values)
    except UserError:
        return None


def _plain(value: Any) -> str:
    """A value as a recipe writes it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def _end_token(evidence: Evidence) -> tuple[str, Any, str] | None:
    return "prompt.end_token", True, "a model that never learns the end of an answer never stops"


def _decoding(evidence: Evidence) -> tuple[str, Any, str] | None:
    if not evidence.data["split"].get("validation"):
        return None  # nothing to choose it on
    return "evaluate.decoding", "auto", "the mildest decoding that doesn't loop is chosen on the validation questions"


def _whole(evidence: Evidence) -> tuple[str, Any, str] | None:
    count = evidence.data["truncated"]
    return ("data.overlong", "drop", f"{count:,} rows are cut, and teach to go on") if count else None


def _added(key: str, finding: str, why: str) -> Remedy:
    """Add a finding's name to a list of the recipe, where the audit found rows."""

    def remedy(evidence: Evidence) -> tuple[str, Any, str] | None:
        count = evidence.finding(finding)
        if not count:
            return None
        own = _value(evidence.recipe, key)
        return key, [*own, *({finding} - set(own))], f"{count:,} rows {why}"

    return remedy


def _longer_answers(evidence: Evidence) -> tuple[str, Any, str] | None:
    needed = evidence.answer_tokens("p95")
    limit = evidence.recipe.evaluate.max_new_tokens
    raised = min(int(-(-needed // ROUND) * ROUND), LONGEST_ANSWER)
    if raised <= limit:
        return None
    return "evaluate.max_new_tokens", raised, f"95% of the training answers end within {raised:,} tokens"


def _closings(evidence: Evidence) -> tuple[str, Any, str] | None:
    """The cleaning step, where sentences that end answers recur."""
    if not _ending(evidence):
        return None
    own = _value(evidence.recipe, "data.clean")
    return "data.clean", [*own, *({"stock-closings"} - set(own))], "stock sentences end the training answers"


def _own_closings(evidence: Evidence) -> tuple[str, Any, str] | None:
    """Patterns for the sentences that the step's own patterns miss."""
    own = _value(evidence.recipe, "data.closings")
    missed = [sentence for sentence in _ending(evidence) if not _matched(sentence, evidence)]
    if not missed:
        return None
    return "data.closings", [*own, *(_literal(sentence) for sentence in missed)], "no pattern matches these sentences"


def _ending(evidence: Evidence) -> list[str]:
    """Sentences that mostly end their answers. One that sends people to a doctor is nothing to be taken out unasked."""
    own = [item["text"] for item in evidence.sentences if item["ends"] >= 0.5]
    return [one for one in own if _matched(one, evidence) or not cautions(one)]


def _matched(sentence: str, evidence: Evidence) -> bool:
    return any(re.fullmatch(pattern, sentence, re.I) for pattern in evidence.recipe.data.closings)


def _literal(text: str) -> str:
    """A pattern for a text as it stands. re.escape would escape blanks too, which is harder to read."""
    return re.sub(r"([.^$*+?{}\[\]\\|()])", r"\\\1", text)


def _more(evidence: Evidence) -> tuple[str, Any, str] | None:
    train = evidence.recipe.train
    if evidence.learnt("over-fitting"):
        return None
    why = "more training brings the answers nearer to those of the data"
    if train.max_steps:
        return "train.max_steps", 2 * train.max_steps, why
    return ("train.epochs", 2 * train.epochs, why) if train.epochs <= 3 or evidence.learnt("still-learning") else None


def _less(evidence: Evidence) -> tuple[str, Any, str] | None:
    epochs = evidence.recipe.train.epochs
    if epochs <= 1:
        return None
    return "train.epochs", max(1.0, epochs / 2), "what is gone through less often is less learnt by heart"


def _system(evidence: Evidence) -> tuple[str, Any, str] | None:
    if evidence.data["template"] != "chat" or evidence.recipe.prompt.system:
        return None
    return "prompt.system", CAREFUL, "says what every answer owes the person who asks"


def _redirects(evidence: Evidence) -> tuple[str, Any, str] | None:
    """Answers that steer back, where training has cost the model its role; left out where recipes have no such key."""
    lost = evidence.scores.get("differences", {}).get("off_topic_kept", {})
    if lost.get("high", 0.0) >= 0:
        return None
    return "data.redirects", True, "the tuned model steers back from other subjects less often than the base"


def _template(evidence: Evidence) -> tuple[str, Any, str] | None:
    return "prompt.template", "auto", "the model's own template ends in tokens that no text holds"


_AGAINST: dict[str, tuple[Remedy, ...]] = {
    "loop": (_end_token, _decoding, _whole, _added("data.drop", "truncated-answers", "stop in mid-sentence")),
    "ran to the limit": (
        _end_token,
        _whole,
        _added("data.drop", "truncated-answers", "stop in mid-sentence"),
        _longer_answers,
        _decoding,
    ),
    "empty": (_added("data.drop", "short-answers", "say next to nothing"), _more),
    "boilerplate": (_closings, _own_closings),
    "off topic": (
        _added("data.drop", "contradicting-answers", "answer one question in several ways"),
        _redirects,
        _more,
    ),
    "refuses": (_more,),
    "leaks the template": (_end_token, _template),
    "wrong language": (_added("data.drop", "other-languages", "are in another language"), _more),
    "too short": (_added("data.drop", "short-answers", "say next to nothing"),),
    "too long": (_end_token, _more),
    "unsafe": (_system,),
    "copied": (_added("data.drop", "copied-questions", "only repeat the question"), _less),
}
_BY_HAND = {
    "boilerplate": "Sentences that don't end their answers, and advice to see a doctor, are left for you to decide on.",
    "off topic": "Look at the nearest training examples: a question with none near needs examples of its own.",
    "contradicts reference": "What is wrong in the nearest training examples is to be mended in data.source.",
    "refuses": "Rows that refuse are to be taken out of data.source.",
    "unsafe": "The nearest training examples without a caution are to be mended in data.source, or taken out.",
    "too short": "Look at the nearest training examples: answers as short as these teach to be short.",
}
