"""The rules as data: what one says, when it speaks, and how a file of them is read.

The built-in ones are `assets/guard.yaml`, which says what a pattern may hold; docs/guard.md has the fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml

from residency.errors import UserError, listed, nearest
from residency.guard import unsafe
from residency.guard.told import Patterns, Told, found, plain, sentences

KINDS = ("emergency", "question", "off-topic", "answer", "once")
TEXTS = ("id", "kind", "notice", "reply", "check")
PATTERNS = ("when", "also", "unless", "unless_answer")
EXAMPLES = ("match", "silent")
CHECKS: dict[str, Callable[[str], bool]] = {
    "dose-without-caution": unsafe.dose_without_caution,
    "discourages-care": unsafe.discourages_care,
}
FEWEST = 3  # words of a question that can be off topic

_PART = re.compile(r"(?<!\(\?P)<([a-z_]+)>")


@dataclass(frozen=True)
class Rule:
    """One rule. It speaks of a question, of an answer (`kind` answer), or once a conversation (`kind` once)."""

    id: str
    kind: str
    notice: str
    reply: str = ""
    check: str = ""
    when: Patterns = ()
    also: Patterns = ()
    unless: Patterns = ()
    unless_answer: Patterns = ()
    match: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def speaks(self, question: str, answer: str | None, first: bool) -> bool:
        """Whether it has something to say; what needs the answer says nothing before there is one."""
        if self.kind == "once":
            return first
        if answer is None and (self.kind == "answer" or self.unless_answer):
            return False
        if answer and found(self.unless_answer, plain(answer)):
            return False
        if self.kind == "answer":
            return CHECKS[self.check](answer or "") if self.check else self._stands(answer or "")
        if self.kind == "off-topic":
            return self._off_topic(question, first)
        return self._emergency(question) if self.kind == "emergency" else self._stands(question)

    def holds(self, example: str) -> bool:
        """Whether it speaks of one of its examples: of an answer where it is for answers, else of a first question."""
        if self.kind == "answer":
            return self.speaks("", example, first=True)
        return self.speaks(example, "" if self.unless_answer else None, first=True)

    def _stands(self, text: str) -> bool:
        """`when` in a sentence without `unless`, and `also` anywhere."""
        signs = any(found(self.when, one) and not found(self.unless, one) for one in sentences(text))
        return signs and (not self.also or found(self.also, plain(text)))

    def _emergency(self, text: str) -> bool:
        """The same, of what is told as being there now."""
        how = told()
        if not how.of_a_case(text):
            return False
        parts = list(sentences(text))
        signs = any(how.stands(self.when, one) and not found(self.unless, one) for one in parts)
        return signs and (not self.also or any(how.stands(self.also, one) for one in parts))

    def _off_topic(self, text: str, first: bool) -> bool:
        """No word of the subject; later in a conversation, where "And at night?" has none either, `when` as well."""
        text = plain(text)
        if found(self.unless, text) or len(text.split()) < FEWEST:
            return False
        return first or found(self.when, text)


@lru_cache
def built_in() -> tuple[Rule, ...]:
    """The rules of `assets/guard.yaml`."""
    return tuple(_rules(_asset(), "guard.yaml", _asset()["parts"], checked=False))


@lru_cache
def told() -> Told:
    """How an emergency is told of, by the words of `assets/guard.yaml`."""
    asset = _asset()
    names = asset["told"]
    return Told(**{name: tuple(_compiled(text, asset["parts"]) for text in names[name]) for name in names})


def emergency(question: str) -> bool:
    """Whether one of the built-in rules takes a question for an emergency."""
    return any(rule.kind == "emergency" and rule.speaks(question, None, False) for rule in built_in())


def read(file: Path) -> list[Rule]:
    """The rules in a file of one's own, each held to its examples; it may use the built-in parts.

    Raises:
        UserError: the file can't be read, or a rule in it is wrong.
    """
    where = f"guard.rules {file}"
    try:
        raw = yaml.safe_load(file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{where}: can't be read ({getattr(error, 'strerror', None) or error})", "a YAML file"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{where}{line}: not valid YAML", "rules: and a list", "put a pattern with a colon and a blank into quotes"
        ) from None
    if not isinstance(raw, dict) or not isinstance(raw.get("rules"), list) or not raw["rules"]:
        raise UserError(f"{where}: no rules in it", "rules: and a list, see docs/guard.md")
    for key in raw:
        if key not in ("parts", "rules"):
            raise UserError(f'{where}: unknown key "{key}"', "parts and rules", nearest(str(key), ("parts", "rules")))
    parts = raw.get("parts") or {}
    if not isinstance(parts, dict) or not all(isinstance(text, str) for text in parts.values()):
        raise UserError(f"{where}: parts is {parts!r}", "names with a pattern each")
    return _rules(raw, where, {**_asset()["parts"], **parts}, checked=True)


@lru_cache
def _asset() -> dict[str, Any]:
    text = (resources.files("residency") / "assets" / "guard.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def _rules(raw: Mapping[str, Any], where: str, parts: Mapping[str, str], *, checked: bool) -> list[Rule]:
    rules: list[Rule] = []
    for place, fields in enumerate(raw["rules"], start=1):
        if not isinstance(fields, dict):
            raise UserError(f"{where}: rule {place} is {fields!r}", "id, kind, notice and what it looks for")
        name = fields.get("id")
        here = f'{where}: rule "{name}"' if isinstance(name, str) else f"{where}: rule {place}"
        rule = _rule(fields, here, parts)
        if any(other.id == rule.id for other in rules):
            raise UserError(f"{here}: the id stands there a second time", "each id once")
        if checked:
            _check(rule, here)
        rules.append(rule)
    return rules


def _rule(fields: dict[str, Any], here: str, parts: Mapping[str, str]) -> Rule:
    known = (*TEXTS, *PATTERNS, *EXAMPLES)
    values: dict[str, Any] = {}
    for key, value in fields.items():
        if key not in known:
            raise UserError(f'{here}: unknown key "{key}"', f"some of {listed(known)}", nearest(str(key), known))
        if key in TEXTS:
            if not isinstance(value, str) or not value.strip():
                raise UserError(f'{here}: "{key}" is {value!r}', "a text")
            values[key] = value.strip()
            continue
        _texts(value, f'{here}: "{key}"')
        values[key] = (
            tuple(value) if key in EXAMPLES else tuple(_pattern(one, f'{here}: "{key}"', parts) for one in value)
        )
    for key in ("id", "kind", "notice"):
        if key not in values:
            raise UserError(f'{here}: key "{key}" is missing', "id, kind and notice", "add it")
    if values["kind"] not in KINDS:
        raise UserError(f"{here}: kind is {values['kind']}", f"one of {listed(KINDS)}", nearest(values["kind"], KINDS))
    rule = Rule(**values)
    _whole(rule, here)
    return rule


def _texts(value: Any, here: str) -> None:
    if not isinstance(value, list):
        raise UserError(f"{here} is {shorten(repr(value), 60)}", "a list of texts")
    for place, one in enumerate(value, start=1):
        if not isinstance(one, str) or not one:
            raise UserError(
                f"{here}: its number {place} is {shorten(repr(one), 60)}",
                "a text",
                "put a pattern with a colon and a blank into quotes",
            )


def _whole(rule: Rule, here: str) -> None:
    """Raise where a rule could never speak, or would always."""
    if rule.check and rule.check not in CHECKS:
        raise UserError(f"{here}: check is {rule.check}", f"one of {listed(CHECKS)}", nearest(rule.check, CHECKS))
    if rule.check and (rule.kind != "answer" or rule.when):
        raise UserError(f"{here}: check is of the kind answer, in place of when", fix="leave out one of them")
    if rule.kind in ("emergency", "question", "answer") and not rule.when and not rule.check:
        raise UserError(f'{here}: key "when" is missing', "patterns of which one must be there", "add it")
    if rule.kind == "off-topic" and not rule.unless:
        raise UserError(f'{here}: key "unless" is missing', "words of the subject, as patterns", "add it")
    if rule.kind == "once" and (rule.when or rule.unless or rule.match):
        raise UserError(f"{here}: a notice of the kind once looks for nothing", fix="leave out when, unless and match")
    if rule.reply and rule.kind != "off-topic":
        raise UserError(f"{here}: reply is of the kind off-topic", fix="leave it out, or change the kind")


def _check(rule: Rule, here: str) -> None:
    for expected, examples in ((True, rule.match), (False, rule.silent)):
        for example in examples:
            if rule.holds(example) != expected:
                must = "must make it speak and does not" if expected else "must leave it silent and does not"
                raise UserError(f"{here}: the example {example!r} {must}", fix="change the patterns or the example")


def _pattern(text: str, here: str, parts: Mapping[str, str]) -> re.Pattern[str]:
    try:
        return _compiled(text, parts)
    except KeyError as error:
        name = str(error.args[0])
        raise UserError(f"{here}: no part <{name}>", f"one of {listed(parts)}", nearest(name, parts)) from None
    except (re.error, RecursionError) as error:
        raise UserError(f"{here}: {text!r} is no regular expression ({error})", "Python's syntax") from None


def _compiled(text: str, parts: Mapping[str, str]) -> re.Pattern[str]:
    return re.compile(_written_out(text, parts), re.I)


def _written_out(text: str, parts: Mapping[str, str]) -> str:
    """The pattern with its parts in place and without the blanks around |."""
    return _PART.sub(lambda match: _written_out(parts[match.group(1)], parts), text.replace(" | ", "|"))
