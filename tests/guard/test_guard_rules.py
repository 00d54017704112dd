from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from residency.errors import UserError
from residency.guard import Guard
from residency.guard.rules import Rule, built_in, emergency, read
from residency.recipe import Recipe

RULES = {rule.id: rule for rule in built_in()}
EMERGENCIES = [rule for rule in built_in() if rule.kind == "emergency"]


@pytest.mark.parametrize("rule", [rule for rule in built_in() if rule.kind != "once"], ids=lambda rule: rule.id)
def test_each_rule_speaks_of_its_examples_and_of_no_other(rule: Rule) -> None:
    assert len(rule.match) >= (3 if rule.kind in ("emergency", "off-topic") else 1) and len(rule.silent) >= 2
    assert [example for example in rule.match if not rule.holds(example)] == []
    assert [example for example in rule.silent if rule.holds(example)] == []


@pytest.mark.parametrize("rule", EMERGENCIES, ids=lambda rule: rule.id)
def test_what_is_silent_to_one_rule_is_no_emergency_to_another(rule: Rule) -> None:
    assert [example for example in rule.silent if emergency(example)] == []


@pytest.mark.parametrize(
    "text",
    [
        "I have no chest pain.",
        "I have no fever, cough or chest pain.",
        "She denies chest pain and any trouble breathing.",
        "He doesn't have a stiff neck or a fever.",
        "There was chest pain two years ago, after which I got a stent.",
        "As a child I used to have difficulty breathing.",
        "What if I get chest pain on the plane?",
        "Can stress cause chest pain?",
        "How would I know that my father is having a stroke?",
        "In my novel the hero has crushing chest pain.",
        "I read about a man who can't breathe in space.",
        "I'm afraid of getting chest pain when I retire.",
    ],
)
def test_a_sign_that_is_denied_past_supposed_or_read_of_is_none(text: str) -> None:
    assert not emergency(text)


@pytest.mark.parametrize(
    "text",
    [
        "No fever, but chest pain since this morning.",
        "I'm not sure whether this chest pain is serious.",
        "I had chest pain two years ago and now it is back: chest pain again.",
        "I've never had chest pain like this before.",
        "I can't sleep because of the chest pain.",
        "No appetite and chest pain.",
        "Could my chest pain be a heart attack?",
        "What should I do about my chest pain?",
        "crushing chest pain left arm sweating what to do",
        "I’m having trouble breathing",
        "HE CAN'T BREATHE",
        "I have no rash. There is a pressure on my chest.",
    ],
)
def test_a_sign_that_is_there_stays_one_beside_a_denial_or_a_past(text: str) -> None:
    assert emergency(text)


def test_a_question_without_a_word_of_the_subject_is_off_topic_at_first_and_a_short_follow_up_is_not() -> None:
    rule = RULES["off-topic"]
    assert rule.speaks("Which bus goes to the station?", "Take the 12.", first=True)
    assert not rule.speaks("Which one is the better of both?", "The first.", first=False)
    assert rule.speaks("Which football team is the best?", "The red one.", first=False)


def test_where_the_answer_keeps_the_role_nothing_is_offered() -> None:
    rule = RULES["off-topic"]
    assert not rule.speaks("Which team is the best?", "I can only help with questions about your health.", first=True)
    assert not rule.speaks("Which team is the best?", None, first=True)  # there is no answer yet


OWN: dict[str, Any] = {
    "id": "refund",
    "kind": "question",
    "when": [r"\bmoney back\b"],
    "notice": "Refunds take 30 days.",
    "match": ["Can I have my money back?"],
    "silent": ["I have money."],
}


def file_of(folder: Path, *rules: dict[str, Any], **more: Any) -> Path:
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump({"rules": list(rules), **more}), "utf-8")
    return file


def guard_of(**section: Any) -> Guard | None:
    return Guard.of(Recipe.parse({"name": "x", "data": {"source": "clinic"}, "guard": section}))


def test_a_rule_of_ones_own_speaks_and_may_take_the_place_of_a_built_in_one(tmp_path: Path) -> None:
    law = {"id": "off-topic", "kind": "off-topic", "unless": [r"\b(?:law|contract)\b"], "notice": "Law alone."}
    guard = guard_of(role=True, rules=str(file_of(tmp_path, OWN, law)))
    assert guard is not None
    assert [notice.rule for notice in guard.look("Can I have my money back?", "No.", first=True)] == [
        "refund",
        "off-topic",
    ]
    assert guard.look("Is this contract valid?", "Yes.", first=True) == []
    assert [notice.notice for notice in guard.look("Why do my knees hurt?", "Rest.", first=True)] == ["Law alone."]


def test_parts_of_ones_own_stand_in_patterns(tmp_path: Path) -> None:
    rule = {**OWN, "when": ["<wants> money back"], "match": ["I want my money back"], "silent": []}
    (found,) = read(file_of(tmp_path, rule, parts={"wants": "(?:want | need) my"}))
    assert found.holds("we need my money back")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"wen": ["x"]}, 'rule "refund": unknown key "wen"; expected some of id, kind.* did you mean "when"'),
        ({"kind": "emergancy"}, 'kind is emergancy; expected one of emergency.* did you mean "emergency"'),
        ({"when": ["(money"]}, r"""rule "refund": "when": '\(money' is no regular expression"""),
        ({"when": ["<cannt> pay"]}, 'no part <cannt>; .*did you mean "cant"'),
        ({"when": "money"}, """"when" is 'money'; expected a list of texts"""),
        ({"when": []}, None),
        ({"notice": ""}, "\"notice\" is ''; expected a text"),
        ({"match": ["Good morning"]}, "the example 'Good morning' must make it speak and does not"),
        ({"silent": ["My money back, please"]}, "the example 'My money back, please' must leave it silent"),
        ({"kind": "off-topic"}, 'key "unless" is missing'),
        ({"kind": "once"}, "looks for nothing"),
        ({"reply": "Hello"}, "reply is of the kind off-topic"),
        ({"check": "dosis"}, "check is dosis; expected one of dose-without-caution"),
        ({"id": None}, r"rule 1: \"id\" is None"),
    ],
)
def test_a_wrong_rule_is_told_in_one_line(tmp_path: Path, change: dict[str, Any], line: str | None) -> None:
    with pytest.raises(UserError, match=line or 'key "when" is missing') as error:
        read(file_of(tmp_path, {**OWN, **change}))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("rules:\n - id: x\n   when: [a\n", r"line \d: not valid YAML"),
        ("- a\n", "no rules in it"),
        ("rules: []\n", "no rules in it"),
        ("rules: [x]\n", "rule 1 is 'x'"),
        ("rule: []\nrules: [{}]\n", 'unknown key "rule"'),
        ("parts: [a]\nrules: [{}]\n", "parts is"),
        ("rules: [{}]\n", 'key "id" is missing'),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(UserError, match=line):
        read(file)


def test_a_missing_file_and_one_id_twice_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        guard_of(rules=str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match='"refund": the id stands there a second time'):
        read(file_of(tmp_path, OWN, OWN))


def test_nothing_is_on_by_default_and_each_switch_turns_on_its_kind() -> None:
    assert guard_of() is None
    kinds = {"emergencies": "emergency", "not_a_doctor": "once", "role": "off-topic", "answers": "answer"}
    for switch, kind in kinds.items():
        guard = guard_of(**{switch: True})
        assert guard is not None and {rule.kind for rule in guard.rules} == {kind}


def test_an_urgent_notice_stands_first_and_the_same_words_stand_once() -> None:
    guard = guard_of(emergencies=True, not_a_doctor=True, role=True, answers=True)
    assert guard is not None
    found = guard.look("My chest feels tight and my lips turned blue", "Take 500 mg of it.", first=True)
    assert [(notice.where, notice.urgent) for notice in found] == [
        ("question", True),
        ("answer", False),
        ("conversation", False),
    ]
    assert found[0].entry() == {"rule": found[0].rule, "notice": found[0].notice}
    assert guard.look("My knee aches a bit", "Rest it.", first=False) == []


def test_the_redirect_is_offered_beside_the_notice() -> None:
    guard = guard_of(role=True)
    assert guard is not None
    (notice,) = guard.look("What do you think of Mars?", "It is red.", first=True)
    assert "health" in notice.reply and notice.entry()["reply"] == notice.reply


def test_the_document_has_the_tables_that_the_benchmark_prints() -> None:
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("guard_rules", root / "benchmarks" / "guard_rules.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # dataclasses look for their module there
    spec.loader.exec_module(benchmark)
    assert "\n".join(benchmark.tables()) in (root / "docs" / "guard.md").read_text("utf-8")


def test_the_rules_of_the_document_are_rules(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "guard.md").read_text("utf-8")
    (tmp_path / "rules.yaml").write_text(text.split("```yaml\nparts:")[1].split("```")[0].join(("parts:", "")), "utf-8")
    assert [rule.id for rule in read(tmp_path / "rules.yaml")] == ["refunds", "off-topic"]
