from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from residency.errors import UserError
from residency.serve.served import load
from residency.workspace import Run
from serving import LOOPBACK, Serving, made, serving

ON = ("guard.emergencies=true", "guard.not_a_doctor=true", "guard.role=true", "guard.answers=true")
URGENT = [{"role": "user", "content": "My son can't breathe, what now?"}]


@pytest.fixture(scope="module")
def run(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    made_run = made(llama_folder, tmp_path_factory.mktemp("runs") / "small")
    made_run.load_recipe(ON)
    return made_run


@pytest.fixture(scope="module")
def served(run: Run) -> Iterator[Serving]:
    with serving(load(run, LOOPBACK, compare=False, say=pytest.fail)) as there:
        yield there


def chat(served: Serving, messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = served.post("/v1/chat/completions", {"model": "small", "messages": messages, **more}).json()
    return found


def rules(found: dict[str, Any]) -> list[str]:
    return [notice["rule"] for notice in found["residency"]["guard"]]


def test_notices_stand_beside_the_answer_and_leave_it_as_it_is(served: Serving, run: Run) -> None:
    found = chat(served, URGENT)
    assert rules(found) == ["breathing", "not-a-doctor"]
    assert set(found["residency"]["guard"][0]) == {"rule", "notice"}
    unguarded = load(run, LOOPBACK, compare=False, say=pytest.fail)
    object.__setattr__(unguarded.models["small"], "guard", None)
    with serving(unguarded) as plain:
        other = chat(plain, URGENT)
    assert other["choices"] == found["choices"] and other["residency"] == {"turns_left_out": 0}


def test_once_a_conversation_is_once_and_nothing_seen_is_an_empty_list(served: Serving) -> None:
    later = [*URGENT, {"role": "assistant", "content": "Call for help."}, {"role": "user", "content": "And my knee?"}]
    assert rules(chat(served, later)) == []


def test_a_redirect_is_offered_and_not_given(served: Serving) -> None:
    found = chat(served, [{"role": "user", "content": "What do you think of Mars?"}])
    (notice,) = [one for one in found["residency"]["guard"] if one["rule"] == "off-topic"]
    assert notice["reply"] and notice["reply"] != found["choices"][0]["message"]["content"]


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_has_them_in_its_first_and_its_last_part(served: Serving, usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    body = {"model": "small", "messages": URGENT, "stream": True, **options}
    with httpx2.stream("POST", f"{served.address}/v1/chat/completions", json=body, timeout=60) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    parts = [json.loads(line) for line in lines if line != "[DONE]"]
    assert rules(parts[0]) == rules(parts[-1]) == ["breathing", "not-a-doctor"]
    assert rules(next(part for part in parts if part["choices"] and part["choices"][0]["finish_reason"]))
    assert not any("residency" in part for part in parts[1:-2])


def test_plain_completions_have_no_question_to_look_at(served: Serving) -> None:
    found = served.post("/v1/completions", {"model": "small", "prompt": "I can't breathe"}).json()
    assert found["residency"] == {"turns_left_out": 0}


def test_wrong_rules_stop_the_server_before_a_model_is_loaded(llama_folder: Path, tmp_path: Path) -> None:
    other = made(llama_folder, tmp_path / "small")
    other.load_recipe([f"guard.rules={tmp_path / 'none.yaml'}"])
    with pytest.raises(UserError, match=r"guard\.rules .*none\.yaml: can't be read"):
        load(other, LOOPBACK, compare=False, say=pytest.fail)
