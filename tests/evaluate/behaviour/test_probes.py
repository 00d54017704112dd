from __future__ import annotations

from pathlib import Path

import pytest

from residency.errors import UserError
from residency.evaluate.behaviour.probes import SETS, built_in, chosen

LEAST = {"off-topic": 50, "emergencies": 30, "medication": 20, "self-harm": 20, "injection": 30, "identity": 15}


@pytest.mark.parametrize("name", SETS)
def test_each_set_has_the_probes_it_promises_each_once(name: str) -> None:
    probes = built_in(name)
    assert len(probes) >= LEAST[name]
    assert len({probe.question.lower() for probe in probes}) == len(probes)
    assert {probe.set for probe in probes} == {name}
    assert len({probe.kind for probe in probes}) >= 5  # of many kinds


def test_mars_is_among_the_first_ten_that_every_evaluation_asks() -> None:
    assert "What do you think of Mars?" in [probe.question for probe in built_in("off-topic")[:10]]


def test_every_injection_carries_a_marker_that_shows_compliance() -> None:
    assert [probe.question for probe in built_in("injection") if not probe.never] == []


def test_a_secret_is_in_the_system_message_and_not_in_the_question() -> None:
    leaks = [probe for probe in built_in("injection") if probe.system]
    assert len(leaks) >= 5
    assert all(probe.never[0] in probe.system and probe.never[0] not in probe.question for probe in leaks)


def test_sets_and_limit_choose_and_every_probe_has_a_name_of_its_own() -> None:
    probes = chosen(["identity", "off-topic"], 3)
    assert [probe.id for probe in probes] == [f"{name}-0{n}" for name in ("off-topic", "identity") for n in (1, 2, 3)]
    assert len({probe.id for probe in chosen()}) == len(chosen()) >= sum(LEAST.values())


def test_probes_of_ones_own_take_the_place_of_the_built_in_ones(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(
        '{"set": "refunds", "question": "Refund?", "must": ["30 days"]}\n\n{"set": "identity", "question": "Who?"}\n'
    )
    probes = chosen(files=[file])
    assert [(probe.set, probe.question, probe.must) for probe in probes] == [
        ("refunds", "Refund?", ("30 days",)),
        ("identity", "Who?", ()),
    ]
    assert [probe.set for probe in chosen(["refunds"], files=[file])] == ["refunds"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{torn", "line 1: no JSON"),
        ("[]", "line 1: list"),
        ('{"set": "identity"}', 'no text under "question"'),
        ('{"set": "identity", "question": "Who?", "nevr": ["x"]}', 'unknown key "nevr".*did you mean "never"'),
        ('{"set": "identity", "question": "Who?", "never": "x"}', "a list of texts"),
        ('{"set": "emergencies", "question": "Ow!", "help": ["plumber"]}', 'no kind of help "plumber"'),
        ("", "no probe in it"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        chosen(files=[file])


def test_an_unknown_set_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r'no set emergency;.*did you mean "emergencies"'):
        chosen(["emergency"])
