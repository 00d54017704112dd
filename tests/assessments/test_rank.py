from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conftest import write_jsonl
from residency import pipeline
from residency.assessments.rank import Source, rank
from residency.data import preferences
from residency.errors import Interrupted, UserError
from residency.progress import Silent
from residency.recipe import Recipe
from residency.workspace import Run
from servers import Answering, Listening, listening

pytest.importorskip("evalica", reason="ratings are evalica's: pip install 'residency[rank]'")


class Server(Listening):
    """An OpenAI-compatible judge that prefers the longer answer, and refuses after `patience` requests."""

    patience = 10**9
    seen: list[tuple[str | None, dict[str, Any]]]


class Handler(Answering):
    server: Server

    def do_POST(self) -> None:
        body = self.body()
        self.server.seen.append((self.headers["Authorization"], body))
        status, text = 200, self.reply(body["messages"][0]["content"])
        if len(self.server.seen) > self.server.patience:
            status, text = 400, json.dumps({"error": {"message": "enough"}})
        self.send(text, status)

    def reply(self, prompt: str) -> str:
        first, second = (re.findall(rf"<answer_{name}>\n(.*)\n</answer_{name}>", prompt)[0] for name in "AB")
        said = "A" if len(first) > len(second) else "B"
        return json.dumps({"choices": [{"message": {"content": json.dumps({"why": "longer", "winner": said})}}]})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with listening(Server, Handler) as opened:
        opened.seen = []
        yield opened


def answers(count: int = 10, more: str = "") -> list[dict[str, Any]]:
    """Lines of answers.jsonl in which tuned is nearer to the reference, and longer, on all but every fifth question."""
    good = "Rest and water will help; see a doctor if it gets worse."
    rows = []
    for number in range(count):
        base, tuned = ("It is what it is.", good) if number % 5 else (good, "No idea.")
        told = {name: {"text": text} for name, text in (("base", base), ("tuned", tuned + more))}
        rows.append({"row": number + 1, "question": f"Question {number}?", "reference": good, **told})
    return rows


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run folder that has been evaluated, as far as ranking looks at it."""
    made = Run.create(tmp_path / "small", Recipe.load(None))
    made.write_jsonl("evaluation/answers.jsonl", answers())
    return made


def residency(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "residency", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def systems(found: dict[str, Any]) -> list[str]:
    return [one["system"] for one in found["systems"]]


def votes_file(folder: Path, *winners: str) -> Path:
    rows = [{"question": f"Question {n}?", "a": "tuned", "b": "base", "winner": one} for n, one in enumerate(winners)]
    return write_jsonl(folder / "votes.jsonl", rows)


def test_the_command_prints_and_keeps_what_it_found(run: Run, tmp_path: Path) -> None:
    votes = votes_file(tmp_path, *"aaaaaaaabb")
    done = residency("rank", run.folder, "--votes", votes, "--resamples", "200")
    assert done.returncode == 0, done.stderr
    assert "rank  system  rating" in done.stdout
    assert "tuned against base: 8 won, 0 tied, 2 lost; 80% (" in done.stdout
    kept = run.read_json("evaluation/ratings.json", "rank")
    assert systems(kept) == ["tuned", "base"]
    assert kept["source"] == {"kind": "votes", "file": str(votes)}
    assert kept["systems"][0]["rating"]["value"] == pytest.approx(1120.4, abs=0.1)  # 1000 + 200 log10(8 / 2)
    assert ElementTree.parse(run.folder / "evaluation" / "ratings.svg").getroot().tag.endswith("svg")
    assert run.verify() == []


def test_the_command_gives_json_and_refuses_a_bad_vote_in_one_line(run: Run, tmp_path: Path) -> None:
    done = residency("rank", run.folder, "--votes", votes_file(tmp_path, "a", "tie"), "--resamples", "100", "--json")
    assert systems(json.loads(done.stdout)) == ["tuned", "base"]
    done = residency("rank", run.folder, "--votes", votes_file(tmp_path, "a", "tie", "c"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f'residency: {tmp_path / "votes.jsonl"} line 3: winner is "c"')


def test_a_judge_is_asked_twice_a_pair_with_its_key_and_its_votes_can_be_learnt_from(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    source = Source(judge=f"{server.address}#large", key_env="JUDGE_KEY")
    found = rank([run.folder], source, resamples=100)
    assert len(server.seen) == 20
    assert {key for key, _ in server.seen} == {"Bearer sk-secret"}
    assert {(body["model"], body["temperature"]) for _, body in server.seen} == {("large", 0.0)}
    assert systems(found) == ["tuned", "base"]
    assert (found["judge"]["agreed"], found["judge"]["position_bias"]) == (10, 0)
    assert "secret" not in "".join(path.read_text("utf-8") for path in (run.folder / "evaluation").iterdir())
    again = rank([run.folder], source, resamples=100)
    assert len(server.seen) == 20
    assert again["systems"] == found["systems"]
    # The same file is read by whoever learns from preferences.
    table = pl.read_ndjson(run.folder / "evaluation" / "votes.jsonl").with_row_index("row", offset=1)
    pairs = preferences.from_votes(
        table.select("row", "question", answer="answer_a", rejected="answer_b"), table["vote"]
    )
    assert pairs.rows.height == 10
    assert pairs.rows["answer"].str.starts_with("Rest and water").sum() == 10
    # And without an option the votes that lie in the run are ranked.
    assert rank([run.folder], Source(), resamples=100)["systems"] == found["systems"]


def test_a_judging_that_was_stopped_goes_on(run: Run, server: Server) -> None:
    source = Source(judge=f"{server.address}#large")
    server.patience = 11
    with pytest.raises(UserError, match="enough"):
        rank([run.folder], source, resamples=100)
    assert not (run.folder / "evaluation" / "ratings.json").exists()
    kept = len((run.folder / "evaluation" / "votes.jsonl").read_text("utf-8").splitlines())
    assert kept >= 4
    server.patience, server.seen = 10**9, []
    rank([run.folder], source, resamples=100)
    assert len(server.seen) == 2 * (10 - kept)


def test_ctrl_c_says_how_to_go_on(run: Run, server: Server) -> None:
    class Stops(Silent):
        def step(self, task: str, done: int, total: int, detail: str = "") -> None:
            if done == 4:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="go on with `residency rank small`"):
        rank([run.folder], Source(judge=f"{server.address}#large"), Stops(), again="residency rank small")
    assert len((run.folder / "evaluation" / "votes.jsonl").read_text("utf-8").splitlines()) == 4


def test_several_runs_are_ranked_over_their_shared_questions(run: Run, tmp_path: Path) -> None:
    other = Run.create(tmp_path / "other", Recipe.load(None))
    other.write_jsonl("evaluation/answers.jsonl", answers(8, more=" In short, rest."))
    found = rank([run.folder, other.folder], Source(metric="rouge-l"), resamples=100, out=tmp_path / "ranked")
    assert systems(found) == ["small/tuned", "other/tuned", "base"]
    assert (found["questions"], found["questions_left_out"]) == (8, {"small": 2})
    assert (tmp_path / "ranked" / "ratings.json").is_file()
    assert not (run.folder / "evaluation" / "ratings.json").exists()


def test_votes_in_a_run_folder_are_read_under_its_own_names(run: Run, tmp_path: Path) -> None:
    other = Run.create(tmp_path / "other", Recipe.load(None))
    other.write_jsonl("evaluation/answers.jsonl", answers(more="!"))
    for made, vote in ((run, "a"), (other, "b")):
        votes = [{"question": f"Question {n}?", "a": "tuned", "b": "base", "vote": vote} for n in range(3)]
        made.write_jsonl(
            "evaluation/votes.jsonl", [*votes, {**votes[0], "a": "a former one"}, {**votes[0], "vote": "tie"}]
        )
    found = rank([run.folder, other.folder], Source(), resamples=100)
    assert systems(found) == ["small/tuned", "base", "other/tuned"]
    assert found["votes_left_out"]["of_other_systems"] == 2


def test_votes_on_other_questions_count_and_systems_without_votes_are_named(run: Run, tmp_path: Path) -> None:
    rows = [{**row, "shots": {"text": "x"}} for row in answers()]
    run.write_jsonl("evaluation/answers.jsonl", rows)
    votes = [{"question": "Elsewhere?", "a": "tuned", "b": "base", "vote": vote} for vote in ("a", "b", "a")]
    found = rank([run.folder], Source(votes=write_jsonl(tmp_path / "votes.jsonl", votes)), resamples=100)
    assert (found["votes"], found["without_votes"]) == (3, ["shots"])
    assert found["votes_counted"] == {"on_other_questions": 3, "on_other_answers": 0}


def test_votes_on_answers_that_a_run_no_longer_gives_are_left_out_or_told(run: Run, tmp_path: Path) -> None:
    now = answers()[1]
    vote = {"question": now["question"], "a": "tuned", "b": "base", "vote": "a", "answer_a": now["tuned"]["text"]}
    rows = [{**vote, "answer_b": now["base"]["text"]}, {**vote, "answer_b": "What it said before"}, vote]
    file = write_jsonl(tmp_path / "votes.jsonl", rows)
    found = rank([run.folder], Source(votes=file), resamples=100)
    assert (found["votes"], found["votes_counted"]["on_other_answers"]) == (3, 1)
    run.write_jsonl("evaluation/votes.jsonl", rows)
    found = rank([run.folder], Source(), resamples=100)
    assert (found["votes"], found["votes_left_out"]["on_former_answers"]) == (2, 1)
    with (run.folder / "evaluation" / "votes.jsonl").open("a") as opened:
        opened.write('{"question": "Wh')
    assert rank([run.folder], Source(), resamples=100)["votes_left_out"]["cut_short"] == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source(), "rank: no votes in .*votes.jsonl; expected votes; add --votes FILE.jsonl"),
        (Source(metric="chrf", judge="http://a/v1#m"), "rank: --judge and --metric are given; expected one of them"),
        (Source(metric="crf"), 'expected one of rouge-l, chrf, bleu; did you mean "chrf"'),
        (Source(judge="http://a/v1"), "--judge http://a/v1: no address of a model; expected URL#MODEL"),
        (Source(judge=""), "--judge : no address of a model"),
        (Source(judge="http://me:pw@a/v1#m"), "--judge a/v1: no address of a model; .*no user name"),
        (Source(judge="http://a/v1#m", key_env="NO_SUCH_KEY"), "NO_SUCH_KEY is not set.*export NO_SUCH_KEY=..."),
        (Source(metric="chrf", key_env="X"), "--key-env names the key of a judge"),
    ],
)
def test_what_can_not_be_ranked_is_one_clear_line(run: Run, source: Source, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rank([run.folder], source, resamples=100)


def test_the_report_shows_the_ranking(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "small"
    pipeline.prepare(Recipe.parse(small_recipe), folder)
    made = Run.open(folder)
    made.write_jsonl("evaluation/answers.jsonl", answers(30))
    found = rank([folder], Source(metric="chrf"), resamples=200)
    assert found["source"] == {"kind": "metric", "metric": "chrf", "margin": 1.0}
    page = pipeline.report(folder).read_text("utf-8")
    assert '<h2 id="ranking">Ranking</h2>' in page
    assert "tuned against base" in page
    assert "The tuned model&#39;s answers are preferred to the base model&#39;s in 80% of the votes" in page
    assert "by chrf against the reference; within 1.0 points is a tie" in page
    assert (folder / "figures" / "ratings.svg").is_file()
