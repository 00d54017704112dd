from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from residency.endpoint import Endpoint
from residency.errors import UserError
from residency.evaluate.faults.cases import Case
from residency.evaluate.faults.find import Asked, find
from residency.evaluate.faults.judge import FLAGS, Judge, Verdict, parsed, prompt
from servers import Answering, Listening, listening

SECRET = "sk-very-secret"
CLEAN = dict.fromkeys(FLAGS, False) | {"why": "in order"}


class Server(Listening):
    """Replies to a question by the answer that it is asked to check."""

    replies: dict[str, str]
    seen: list[str]
    keys: set[str | None]


class Handler(Answering):
    server: Server

    def do_POST(self) -> None:
        body = self.body()
        asked = body["messages"][0]["content"]
        self.server.seen.append(asked)
        self.server.keys.add(self.headers["Authorization"])
        reply = next(text for part, text in self.server.replies.items() if part in asked)
        if reply == "down":
            self.send_error(400)
            return
        self.send(json.dumps({"choices": [{"message": {"content": reply}}]}))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    with listening(Server, Handler) as opened:
        opened.replies, opened.seen, opened.keys = {}, [], set()
        yield opened


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1#strict"


def asked(*answers: str) -> list[Asked]:
    return [
        Asked(row, f"What is case {row}?", "It passes.", {"tuned": Case(f"What is case {row}?", text, "It passes.")})
        for row, text in enumerate(answers, start=1)
    ]


def test_a_judge_adds_to_the_rules_and_only_it_sees_contradictions(server: Server, tmp_path: Path) -> None:
    server.replies = {
        "It never passes": json.dumps(CLEAN | {"contradicts_reference": True, "why": "the reference says it passes"}),
        "I can't help": json.dumps(CLEAN),
        "Gibberish": "Well, I think {this} is fine.",
    }
    answers = asked("It never passes.", "I can't help with that.", "Gibberish.")
    found = find(answers, Endpoint.judge(address(server), "JUDGE_KEY"), tmp_path / "judged.jsonl")
    of = found.reasons["tuned"]
    assert of["contradicts reference"] == [["judge: the reference says it passes"], [], None]
    assert of["refuses"][1] == ["a refusal"]  # the rule's; the judge takes nothing away
    assert found.unparsable == {"tuned": 1}
    alone = find(answers)
    assert alone.reasons["tuned"]["contradicts reference"] == [None, None, None]


def test_what_was_judged_is_kept_without_the_key_and_not_asked_again(server: Server, tmp_path: Path) -> None:
    server.replies = {"": json.dumps(CLEAN)}
    file = tmp_path / "judged.jsonl"
    for _ in range(2):
        find(asked("It passes.", "It stays."), Endpoint.judge(address(server), "JUDGE_KEY"), file)
    assert len(server.seen) == 2
    assert server.keys == {f"Bearer {SECRET}"}
    assert SECRET not in file.read_text()
    assert "strict" in file.read_text()


def test_replies_before_a_failure_are_kept(server: Server, tmp_path: Path) -> None:
    server.replies = {"fails": "down", "": json.dumps(CLEAN)}
    file = tmp_path / "judged.jsonl"
    prompts = [prompt("?", "!", text) for text in ("a", "b", "c", "d", "fails")]
    judge = Judge(replace(Endpoint.judge(address(server)), sleep=lambda _: None), file)
    with pytest.raises(UserError, match=r"--judge"):
        judge.verdicts(prompts)
    assert len([line for line in file.read_text().splitlines() if line]) == 4


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Fine.",
        "[]",
        json.dumps(CLEAN) + " That is all.",
        "```json\n" + json.dumps(CLEAN) + "\n```",
        json.dumps({key: value for key, value in CLEAN.items() if key != "unsafe"}),
        json.dumps(CLEAN | {"unsafe": "no"}),
        json.dumps(CLEAN | {"score": 3}),
        json.dumps(CLEAN | {"why": None}),
    ],
)
def test_a_reply_in_another_form_is_no_verdict(reply: str) -> None:
    assert parsed(reply) is None


def test_a_reply_as_asked_for_is_a_verdict() -> None:
    assert parsed(f" {json.dumps(CLEAN | {'unsafe': True})}\n") == Verdict(frozenset({"unsafe"}), "in order")


def test_an_answer_cannot_put_words_into_the_prompts_other_places() -> None:
    text = prompt("What is {answer}?", "It is {question}.", "{reference} {question}")
    assert "What is {answer}?" in text
    assert "It is {question}." in text
    assert text.count("{reference} {question}") == 1
    assert '{"off_topic": true or false' in text


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("http://localhost:8000/v1", "URL#MODEL"),
        ("localhost#model", "URL#MODEL"),
        ("ftp://host/v1#model", "URL#MODEL"),
        ("http://host/v1#", "URL#MODEL"),
        ("http://user:password@host/v1#model", "no user name, password or query"),
        ("http://host/v1?key=secret#model", "no user name, password or query"),
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(where: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        Endpoint.judge(where)
    assert "secret" not in str(refused.value) and "user:" not in str(refused.value)


def test_a_key_that_is_not_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UserError, match=r"--key-env: NO_SUCH_KEY is not set"):
        Endpoint.judge("http://localhost/v1#model", "NO_SUCH_KEY")
