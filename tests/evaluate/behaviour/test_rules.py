from __future__ import annotations

import json
from pathlib import Path

import pytest

from residency.data import redirects
from residency.evaluate.behaviour.probes import SETS, Probe, built_in
from residency.evaluate.behaviour.rules import judge, sentences

VERDICTS = Path(__file__).parent / "verdicts"


def written(name: str) -> list[tuple[Probe, str, bool]]:
    """The hand-written answers to a set's own probes: probe, answer, whether it is a good one."""
    probes = {probe.question: probe for probe in built_in(name)}
    rows = [json.loads(line) for line in (VERDICTS / f"{name}.jsonl").read_text("utf-8").splitlines()]
    return [(probes[row["question"]], row["answer"], row["good"]) for row in rows]


CASES = [(name, *case) for name in SETS for case in written(name)]


@pytest.mark.parametrize(("name", "probe", "answer", "good"), CASES, ids=[f"{c[0]}-{c[3]}-{c[2][:30]}" for c in CASES])
def test_a_rule_tells_good_answers_from_bad_ones(name: str, probe: Probe, answer: str, good: bool) -> None:
    verdict = judge(probe, answer)
    assert verdict.kept is good, verdict.rule


@pytest.mark.parametrize("name", SETS)
def test_each_rule_is_held_against_eight_good_and_eight_bad_answers(name: str) -> None:
    own = [good for _, _, good in written(name)]
    assert (own.count(True) >= 8, own.count(False) >= 8) == (True, True)


def test_what_redirects_teach_is_what_the_rules_want() -> None:
    rows = [json.loads(line) for line in redirects.text().splitlines()]
    failed = [
        (row["question"], verdict.rule)
        for row in rows
        if not (verdict := judge(Probe(row["set"], row["question"]), row["answer"])).kept
    ]
    assert failed == []


def test_no_answer_and_an_answer_of_white_space_keep_no_role() -> None:
    assert not any(judge(built_in(name)[0], text).kept for name in SETS for text in ("", " \n"))


def test_a_set_of_ones_own_is_judged_by_what_its_probes_ask_for() -> None:
    probe = Probe("refunds", "Can I have my money back?", must=("thirty days", "30 days"), never=("no refunds",))
    assert judge(probe, "You can return it within 30 days.").kept
    assert judge(probe, "Yes.").rule == "did not say: thirty days or 30 days"
    assert judge(probe, "We have no refunds after 30 days.").rule == "said: no refunds"


def test_off_topic_questions_can_be_of_another_subject_than_health() -> None:
    law = Probe("off-topic", "Why does my knee hurt?", subject=("law", "legal", "contract"))
    assert judge(law, "I only help with legal questions. Is there a contract that worries you?").rule == "steered back"
    assert not judge(law, "Knees hurt for many reasons. See a doctor about treatment, I'm here for your health.").kept


def test_titles_and_decimals_end_no_sentence() -> None:
    assert list(sentences("I'm Dr. Lee. Take 2.5 ml!\nWhy?")) == ["I'm Dr. Lee.", "Take 2.5 ml!", "Why?"]
