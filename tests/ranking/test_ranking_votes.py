from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import write_jsonl
from residency.errors import UserError
from residency.ranking import Vote, append, read_votes

NAMES = {"base": "base", "tuned": "tuned", "run/tuned": "tuned"}
VOTE = {"question": "What helps?", "a": "base", "b": "tuned", "vote": "b"}


def test_a_vote_is_read_however_its_choice_is_spelt(tmp_path: Path) -> None:
    choices = {"a": "a", " B ": "b", "TIE": "tie", "both_bad": "both bad", "both bad": "both bad", "": "", None: ""}
    rows = [{**VOTE, "vote": choice} for choice in choices]
    found = read_votes(write_jsonl(tmp_path / "votes.jsonl", rows), NAMES)
    assert [vote.winner for vote in found.votes] == list(choices.values())


def test_the_column_may_be_called_winner_and_a_system_by_its_long_name(tmp_path: Path) -> None:
    row = {
        "question": "q",
        "a": "run/tuned",
        "b": "base",
        "winner": "a",
        "why": "clearer",
        "voter": "ann",
        "time": "now",
    }
    found = read_votes(write_jsonl(tmp_path / "votes.jsonl", [row]), NAMES)
    assert found.votes == [Vote("q", "tuned", "base", "a", "ann")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vote": "c"}, 'line 2: vote is "c"; expected a, b, tie, both bad'),
        ({"vote": "both"}, 'did you mean "both bad"?'),
        ({"a": "bass"}, 'line 2: system "bass"; expected base, tuned, run/tuned; did you mean "base"?'),
        ({"b": "base"}, 'line 2: a and b are both "base"'),
        ({"a": "run/tuned"}, 'line 2: a and b are both "tuned"'),
        ({"question": " "}, 'line 2: question is " "; expected an object with question, a, b'),
        ({"a": 3}, "line 2: a is 3"),
        ({"winner": "a"}, "line 2: vote is 'b' and winner 'a'; expected one of them"),
    ],
)
def test_a_bad_line_is_named_with_its_file(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "votes.jsonl", [VOTE, {**VOTE, **changes}])
    with pytest.raises(UserError) as error:
        read_votes(file, NAMES)
    assert f"{file} {message}" in str(error.value) or message in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{oh", "line 1: is no JSON"),
        ("[1]\n", "line 1: holds list; expected an object"),
        ('{"question": "q", "a": "base", "b": "tuned"}', "line 1: has no vote; expected vote, one of a, b, tie"),
        ('{"a": "base"}', "line 1: has no question"),
        ("[" * 10**5, "line 1: is no JSON"),
    ],
)
def test_what_is_no_vote_is_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "votes.jsonl").write_text(text)
    with pytest.raises(UserError) as error:
        read_votes(tmp_path / "votes.jsonl", NAMES)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        read_votes(tmp_path / "nowhere.jsonl", NAMES)
    (tmp_path / "votes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no UTF-8 text"):
        read_votes(tmp_path / "votes.jsonl", NAMES)


def test_votes_on_other_systems_are_counted_where_they_may_be_there(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "votes.jsonl", [VOTE, {**VOTE, "a": "other/tuned"}])
    found = read_votes(file, NAMES, others=True)
    assert (len(found.votes), found.others) == (1, 1)


def test_votes_are_added_as_lines_of_their_own_whatever_is_in_them(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    odd = "a line\u2028end, half a pair \ud83d, \n and é"
    for why in ("clear", odd):
        append(file, {**VOTE, "why": why})
    lines = file.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["why"] for line in lines] == ["clear", odd]


@pytest.mark.parametrize("cut", [1, 20, len(json.dumps(VOTE)) - 1])
def test_a_last_line_that_was_cut_short_is_counted_where_votes_grow_and_goes_with_the_next(
    cut: int, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "votes.jsonl", [VOTE])
    with file.open("a") as opened:
        opened.write(json.dumps(VOTE)[:cut])
    found = read_votes(file, NAMES, others=True)
    assert (len(found.votes), found.cut_short) == (1, True)
    with pytest.raises(UserError, match="line 2: is no JSON"):
        read_votes(file, NAMES)
    append(file, VOTE)
    found = read_votes(file, NAMES)
    assert (len(found.votes), found.cut_short) == (2, False)


def test_a_line_cut_short_in_the_middle_of_a_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    file.write_text('{"question": "q\n' + json.dumps(VOTE) + "\n")
    with pytest.raises(UserError, match="line 1: is no JSON"):
        read_votes(file, NAMES, others=True)
