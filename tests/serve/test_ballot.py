from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from residency import ranking
from residency.data import dialogues, schema, sources
from residency.errors import UserError
from residency.recipe import DataSection, Recipe
from residency.serve.pages.ballot import OPEN, Ballots, NotOpen
from residency.workspace import VOTES, Run


def answers(count: int = 4, **others: str) -> list[dict[str, Any]]:
    """Lines of answers.jsonl; the systems answer the last question alike."""
    rows = []
    for number in range(count):
        told = {name: {"text": f"{name} says {number if number < count - 1 else 'the same'}"} for name in ("base",)}
        told["tuned"] = {"text": "base says the same" if number == count - 1 else f"tuned says {number}"}
        more = {"others": {name: {"text": text} for name, text in others.items()}} if others else {}
        rows.append({"row": number, "question": f"Question {number}?", "reference": "r", **told, **more})
    return rows


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "small", Recipe.load(None))
    made.write_jsonl("evaluation/answers.jsonl", answers())
    return made


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / VOTES).read_text("utf-8").splitlines()]


def test_either_system_may_stand_first_and_its_answer_goes_with_it(run: Run) -> None:
    ballots = Ballots(run, random.Random(0))
    first = Counter()
    for _ in range(60):
        _, pair, _ = ballots.held_out("")
        assert {pair.a, pair.b} == {"base", "tuned"}
        first[pair.a] += 1
        assert pair.asked.answers[pair.a].startswith(pair.a)
    assert min(first.values()) > 15


def test_a_vote_is_a_line_that_ranking_reads(run: Run) -> None:
    ballots = Ballots(run, random.Random(0))
    number, pair, _ = ballots.held_out("ann")
    assert ballots.vote(number, "b", "clearer", "ann") == pair
    (row,) = lines(run)
    assert (row["question"], row["a"], row["b"], row["vote"]) == (pair.asked.question, pair.a, pair.b, "b")
    assert (row["answer_a"], row["answer_b"]) == (pair.asked.answers[pair.a], pair.asked.answers[pair.b])
    assert (row["why"], row["voter"]) == ("clearer", "ann")
    given = ranking.answered([run])
    (vote,) = ranking.own_votes([run], given).votes
    assert (vote.a, vote.b, vote.winner, vote.voter) == (pair.a, pair.b, "b", "ann")


def test_each_pair_comes_once_before_one_comes_again_and_voters_do_not_count_for_each_other(run: Run) -> None:
    ballots = Ballots(run)
    for round_ in range(2):
        asked = []
        for done in range(3):
            number, pair, progress = ballots.held_out("ann")
            assert (progress.done, progress.of, progress.same) == (done if round_ == 0 else 3, 3, 1)
            ballots.vote(number, "tie", voter="ann")
            asked.append(pair.asked.question)
        assert sorted(asked) == ["Question 0?", "Question 1?", "Question 2?"]
    assert ballots.held_out("ben")[2].done == 0


def test_a_voter_without_votes_gets_what_others_voted_on_least(run: Run) -> None:
    ballots = Ballots(run)
    for _ in range(2):
        ballots.vote(ballots.held_out("ann")[0], "a", voter="ann")
    asked = {row["question"] for row in lines(run)}
    assert ballots.held_out("ben")[1].asked.question not in asked


def test_a_pair_is_voted_on_once_and_a_forgotten_one_never(run: Run) -> None:
    ballots = Ballots(run)
    number, _, _ = ballots.held_out("")
    ballots.vote(number, "a")
    with pytest.raises(NotOpen, match="not open to votes any more; go on with another one"):
        ballots.vote(number, "a")
    old, _, _ = ballots.held_out("")
    for _ in range(OPEN):
        ballots.own("What?", {"tuned": "one", "base": "other"})
    with pytest.raises(NotOpen):
        ballots.vote(old, "a")
    assert len(lines(run)) == 1


def test_a_vote_that_can_not_be_written_stays_open(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ballots = Ballots(run)
    number, _, _ = ballots.held_out("")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ranking, "append", full)
        with pytest.raises(UserError, match=r"votes.jsonl: No space left on device"):
            ballots.vote(number, "a")
    ballots.vote(number, "a")
    assert len(lines(run)) == 1


@pytest.mark.fault("a vote that a kill cut short", "serve", "the votes before it stay, and the next is whole")
def test_a_line_that_a_kill_cut_short_goes_before_the_next_vote(run: Run) -> None:
    ballots = Ballots(run)
    ballots.vote(ballots.held_out("")[0], "a")
    with (run.folder / VOTES).open("ab") as file:
        file.write('{"question": "é'.encode()[:-1])
    ballots.held_out("")  # reading passes it over
    assert ranking.own_votes([run], ranking.answered([run])).left_out["cut_short"] == 1
    ballots.vote(ballots.held_out("")[0], "b")
    assert [row["vote"] for row in lines(run)] == ["a", "b"]


def test_a_whole_line_without_its_end_is_kept(run: Run) -> None:
    ballots = Ballots(run)
    ballots.vote(ballots.held_out("")[0], "a")
    file = run.folder / VOTES
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    ballots.vote(ballots.held_out("")[0], "b")
    assert [row["vote"] for row in lines(run)] == ["a", "b"]


def test_the_evaluation_may_change_while_the_pages_are_served(run: Run) -> None:
    ballots = Ballots(run)
    number, pair, _ = ballots.held_out("")
    ballots.vote(number, "a")
    run.write_jsonl("evaluation/answers.jsonl", answers(5, other="an answer of a third"))
    progress = ballots.held_out("")[2]
    assert (progress.done, progress.of) == (1, 4 + 5 + 5)
    assert pair.asked.question in {row["question"] for row in lines(run)}


def test_what_stood_before_a_question_and_odd_texts_are_kept_with_the_vote(run: Run) -> None:
    half = "half a pair: \ud83d, and a line\u2028end"
    row = {**answers(2)[0], "before": {"system": "Be kind.", "history": [["Hello?", half]]}}
    run.write_text("evaluation/answers.jsonl", json.dumps(row) + "\n")
    ballots = Ballots(run)
    number, pair, _ = ballots.held_out("")
    assert pair.asked.history == (("Hello?", half),)
    ballots.vote(number, "both bad", why=half)
    text = (run.folder / VOTES).read_bytes().decode()
    assert text.count("\n") == 1
    kept = json.loads(text)
    assert kept["before"] == {"system": "Be kind.", "history": [["Hello?", half]]}
    assert kept["why"] == half


def test_votes_can_be_learnt_from(run: Run) -> None:
    rows = answers(4)
    rows[1]["before"] = {"system": "Be kind.", "history": [["Hello?", "Hello."]]}
    run.write_jsonl("evaluation/answers.jsonl", rows)
    ballots = Ballots(run)
    for choice in ("a", "b", "a"):
        ballots.vote(ballots.held_out("")[0], choice)
    section = DataSection(source=str(run.folder / VOTES))
    table = sources.load(section)
    found = dialogues.read(table.rows, schema.recognise(table.rows, section), section.on_error)
    kept = lines(run)
    better = [row[f"answer_{row['vote']}"] for row in kept]
    assert found.rows["answer"].to_list() == better
    assert found.rows["question"].to_list() == [row["question"] for row in kept]


def test_a_run_with_nothing_to_vote_on_says_so(run: Run) -> None:
    run.write_jsonl("evaluation/answers.jsonl", answers(1))
    with pytest.raises(UserError, match="no two systems' answers differ"):
        Ballots(run).held_out("")
    run.forget("evaluation")
    with pytest.raises(UserError, match="residency evaluate"):
        Ballots(run).held_out("")
