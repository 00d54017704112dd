"""The pages over a small model and its base, as `residency serve --compare` has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from residency.serve import pages
from residency.serve.served import Service, load
from residency.serve.settings import Settings
from residency.workspace import VOTES, Run
from scripted import browsing
from serving import LOOPBACK, Serving, made, serving, slowly, until

QUESTION = "What about a fever?"


@pytest.fixture(scope="module")
def run(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(llama_folder, tmp_path_factory.mktemp("runs") / "small")


def loaded(run: Run, settings: Settings = LOOPBACK) -> Service:
    return load(run, settings, compare=True, say=pytest.fail)


@pytest.fixture(scope="module")
def served(run: Run) -> Iterator[Serving]:
    service = loaded(run)
    with serving(service, routers=[pages.of(run, service, LOOPBACK)]) as there:
        yield there


def said(served: Serving, model: str) -> str:
    """What a model answers to the question over the API."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    answer: str = served.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    return answer


def test_both_models_answer_a_question_of_ones_own_as_they_do_over_the_api(served: Serving, run: Run) -> None:
    pair = served.post("/api/pairs", {"question": QUESTION}).json()
    answers = {"tuned": said(served, "small"), "base": said(served, "base")}
    assert sorted(pair["answers"]) == sorted(answers.values())
    shown = served.post("/api/votes", {"id": pair["id"], "vote": "tie", "reveal": True}).json()
    assert [answers[shown["a"]], answers[shown["b"]]] == pair["answers"]
    row = json.loads((run.folder / VOTES).read_text("utf-8").splitlines()[-1])
    assert (row["question"], row["a"], row["answer_a"]) == (QUESTION, shown["a"], pair["answers"][0])


def test_what_the_models_can_not_take_is_said(served: Serving) -> None:
    got = served.post("/api/pairs", {"question": "fever " * 900})
    assert got.status_code == 400
    assert "tokens" in got.json()["error"]["message"]


def test_a_visitor_who_leaves_frees_both_models(served: Serving) -> None:
    with slowly(served.service):
        with pytest.raises(httpx2.ReadTimeout):
            served.post("/api/pairs", {"question": QUESTION}, timeout=0.3)
        until(lambda: served.number("residency_running") == 0, 5)
        assert served.number("residency_queue_length") == 0


def test_a_full_queue_is_told_with_when_to_come_again_and_leaves_no_half_of_a_pair(run: Run) -> None:
    settings = replace(LOOPBACK, rows=1, queue=0)
    service = loaded(run, settings)
    body: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    with serving(service, settings, [pages.of(run, service, settings)]) as there, slowly(service):
        with httpx2.stream("POST", f"{there.address}/v1/chat/completions", json={**body, "max_tokens": 200}):
            until(lambda: there.number("residency_running") == 1)
            got = there.post("/api/pairs", {"question": QUESTION})
            assert got.status_code == 503
            assert int(got.headers["retry-after"]) >= 1
            until(lambda: there.number("residency_running") == 1, 5)
        until(lambda: there.number("residency_running") == 0, 5)


def test_a_conversation_in_a_browser(served: Serving) -> None:
    with browsing() as browser:
        page = browser.new_page(base_url=served.address)
        page.goto("/")
        page.get_by_role("radio", name="Both").check()
        page.get_by_label("Your question").fill(QUESTION)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Send").wait_for()
        texts = [page.locator(f".answer.{role} .text").inner_text() for role in ("tuned", "base")]
        assert [text.split() for text in texts] == [
            (said(served, name) or "(nothing)").split() for name in ("small", "base")
        ]
        feet = page.locator(".foot").all_inner_texts()
        assert all("tokens" in foot and ("ended by itself" in foot or "at its longest" in foot) for foot in feet)
