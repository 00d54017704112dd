from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from residency.errors import UserError
from residency.ranking import Asked, Judged, Judging, judge_votes
from residency.ranking.judge import prompt, read, verdict
from residency.ranking.metric import metric_votes

ASKED = [
    Asked(f"Question {number}?", "A person's answer.", {"base": f"bad {number}", "tuned": f"good {number}"})
    for number in range(6)
]


def part(text: str, tag: str) -> str:
    return text.split(f"<{tag}>\n", 1)[1].split(f"\n</{tag}>", 1)[0]


class Judge:
    """Replies as `say` does to the two answers, in the order that they are shown in; fails after some replies."""

    def __init__(self, say: Callable[[str, str], str], breaks_after: int | None = None) -> None:
        self.say, self.breaks_after, self.asked = say, breaks_after, 0

    def __call__(self, prompts: list[str], heard: Callable[[str, str], None]) -> list[str]:
        replies = []
        for text in prompts:
            if self.asked == self.breaks_after:
                raise UserError("the endpoint broke")
            self.asked += 1
            replies.append(self.say(part(text, "answer_A"), part(text, "answer_B")))
            heard(text, replies[-1])
        return replies


def winner(letter: str) -> str:
    return json.dumps({"why": "so", "winner": letter})


def fair(first: str, second: str) -> str:
    return winner("A" if first.startswith("good") else "B" if second.startswith("good") else "TIE")


def judged(judge: Judge, file: Path, asked: list[Asked] = ASKED) -> Judged:
    return judge_votes(asked, ["base", "tuned"], judge, Judging(file, "a judge"))


def rows(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_a_judge_is_asked_twice_and_a_fair_one_is_followed(tmp_path: Path) -> None:
    judge = Judge(fair)
    found = judged(judge, tmp_path / "votes.jsonl")
    assert [vote.winner for vote in found.votes] == ["b"] * 6
    assert (judge.asked, found.pairs, found.agreed, found.position_bias) == (12, 6, 6, 0)
    kept = rows(tmp_path / "votes.jsonl")[0]
    assert {kept["answer_a"], kept["answer_b"], kept["a"], kept["b"]} == {"bad 0", "good 0", "base", "tuned"}
    assert (kept["vote"], kept["voter"], kept["said"]) == ("b", "a judge", ["B", "A"])


def test_a_judge_that_goes_by_the_place_gives_ties_and_the_bias_is_told(tmp_path: Path) -> None:
    found = judged(Judge(lambda first, second: winner("A")), tmp_path / "votes.jsonl")
    assert {vote.winner for vote in found.votes} == {"tie"}
    assert (found.first, found.second, found.agreed, found.position_bias) == (6, 0, 0, 1)


def test_a_judge_that_wavers_gives_a_tie_that_is_no_bias(tmp_path: Path) -> None:
    found = judged(Judge(lambda first, second: winner("B" if "bad" in first else "TIE")), tmp_path / "votes.jsonl")
    assert {vote.winner for vote in found.votes} == {"tie"}
    assert (found.wavered, found.position_bias) == (6, 0)


def test_replies_that_can_not_be_read_are_kept_and_counted(tmp_path: Path) -> None:
    found = judged(Judge(lambda first, second: "Both are fine, I suppose"), tmp_path / "votes.jsonl")
    assert {vote.winner for vote in found.votes} == {""}
    assert (found.unread, found.position_bias) == (6, None)
    assert rows(tmp_path / "votes.jsonl")[0]["replies"] == ["Both are fine, I suppose"] * 2
    again = Judge(fair)
    assert judged(again, tmp_path / "votes.jsonl").unread == 6
    assert again.asked == 0


def test_the_same_answer_twice_is_a_tie_without_asking(tmp_path: Path) -> None:
    judge = Judge(fair)
    found = judged(judge, tmp_path / "votes.jsonl", [Asked("q", "r", {"base": "same", "tuned": "same"}), ASKED[0]])
    assert sorted(vote.winner for vote in found.votes) == ["b", "tie"]
    assert (judge.asked, found.same) == (2, 1)


@pytest.mark.parametrize("breaks_after", range(12))
def test_what_was_judged_before_a_failure_is_not_asked_again(breaks_after: int, tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    with pytest.raises(UserError, match="the endpoint broke"):
        judged(Judge(fair, breaks_after), file)
    judge, whole = Judge(fair), breaks_after // 2  # half a pair is no verdict
    found = judged(judge, file)
    assert (judge.asked, found.kept, len(rows(file))) == (12 - 2 * whole, whole, 6)
    assert [vote.winner for vote in found.votes] == ["b"] * 6


def test_a_line_that_a_kill_cut_short_is_judged_again_and_other_voters_lines_stay(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    judged(Judge(fair), file)
    lines = file.read_text("utf-8").splitlines()
    people = json.dumps({"question": "q", "a": "base", "b": "tuned", "vote": "a", "voter": "ann"})
    file.write_text("\n".join([people, *lines[:4], lines[4][:50]]), "utf-8")
    judge = Judge(fair)
    assert judged(judge, file).kept == 4
    assert judge.asked == 4
    assert [row["voter"] for row in rows(file)] == ["ann"] + ["a judge"] * 6


def test_another_answer_or_another_judge_is_judged_anew(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    judged(Judge(fair), file)
    changed = [Asked(one.question, one.reference, {**one.answers, "base": "good too"}) for one in ASKED]
    judge = Judge(fair)
    found = judged(judge, file, changed)
    assert (judge.asked, found.kept) == (12, 0)
    judge = Judge(fair)
    judge_votes(ASKED, ["base", "tuned"], judge, Judging(file, "another judge"))
    assert judge.asked == 12


def test_the_prompt_holds_everything_the_judge_needs_and_nothing_of_the_systems_names() -> None:
    asked = Asked("And $5 at night?", "Rest.", {}, "Be kind.", (("Hello?", "Hello $you."),))
    text = prompt(asked, "the first answer", "")
    assert part(text, "question") == "And $5 at night?"
    assert part(text, "conversation_before") == "Be kind.\n\nPerson: Hello?\nReply: Hello $you."
    assert (part(text, "reference_answer"), part(text, "answer_A")) == ("Rest.", "the first answer")
    assert part(text, "answer_B") == "(nothing)"
    assert "base" not in text
    assert "conversation" not in prompt(ASKED[0], "x", "y")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ('{"why": "clearer", "winner": "A"}', "A"),
        ('```json\n{"why": "clearer",\n "winner": "B"}\n```', "B"),
        ('First I compare.\nA is vague.\n{"why": "clear", "winner": "tie"}\n', "TIE"),
        ("Both say the same.\n\nTIE", "TIE"),
        ("b", "B"),
        ('"A"', "A"),
        ("", None),
        ("The winner is A", None),
        ("A\nor rather not", None),
        ('{"winner": "C"}', None),
        ('{"winner": ["A"]}', None),
        ('{"winner": null}', None),
        ("[" * 10**5, None),
    ],
)
def test_a_reply_is_read_strictly(reply: str, said: str | None) -> None:
    assert read(reply) == said


def test_only_what_is_said_both_times_counts() -> None:
    assert verdict("A", "B") == "a"
    assert verdict("B", "A") == "b"
    assert verdict("TIE", "TIE") == verdict("A", "A") == verdict("B", "TIE") == "tie"
    assert verdict("A", None) == verdict(None, None) == ""


def test_a_metric_prefers_what_is_nearer_to_the_reference_beyond_the_margin() -> None:
    values = {"x": 40.0, "y": 40.5, "z": 60.0}
    asked = [Asked("q", "r", {name: name for name in values})]
    found = metric_votes(asked, list(values), lambda answer, reference: values[answer], margin=1)
    assert [(vote.a, vote.b, vote.winner) for vote in found] == [("x", "y", "tie"), ("x", "z", "b"), ("y", "z", "b")]
    found = metric_votes(asked, ["y", "x"], lambda answer, reference: values[answer], margin=0)
    assert [vote.winner for vote in found] == ["a"]
