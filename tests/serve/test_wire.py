from __future__ import annotations

import json
from typing import Any

import pytest

from residency.serve.refused import Refused
from residency.serve.wire import ChatRequest, CompletionRequest, read

ASKED = {"model": "m", "messages": [{"role": "user", "content": "A cough?"}]}


def refusal(**fields: Any) -> dict[str, Any]:
    with pytest.raises(Refused) as caught:
        read(ChatRequest, ASKED | fields)
    assert caught.value.status == 400
    found: dict[str, Any] = caught.value.body()["error"]
    assert found["type"] == "invalid_request_error"
    return found


def test_what_clients_send_without_a_bearing_on_the_answer_is_passed_over() -> None:
    wanted = read(
        ChatRequest,
        ASKED
        | {
            "user": "me",
            "metadata": {"a": "b"},
            "store": False,
            "tools": None,
            "tool_choice": "auto",
            "logprobs": False,
            "presence_penalty": 0.0,
            "frequency_penalty": 0,
            "response_format": {"type": "text"},
            "stop": None,
            "n": None,
        },
    )
    assert wanted.messages[0].content == "A cough?"
    assert (wanted.choices, wanted.draws, wanted.stop) == (1, False, [])


def test_an_answer_that_is_sent_back_as_it_came_is_read() -> None:
    back = {"role": "assistant", "content": "Rest.", "refusal": None, "annotations": [], "tool_calls": None}
    parts = {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "now?"}]}
    wanted = read(ChatRequest, ASKED | {"messages": [*ASKED["messages"], back, parts]})
    assert [message.content for message in wanted.messages] == ["A cough?", "Rest.", "And now?"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.0}, "max_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": "A cough?"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}, "messages[0].tool_calls"),
        ({"top_k": 5}, "top_k"),
        ({"\ud800[": 5}, None),
    ],
)
def test_what_would_change_the_answer_and_is_not_done_is_refused_by_name(fields: Any, param: str | None) -> None:
    found = refusal(**fields)
    assert found["param"] == param
    assert param is None or param in found["message"]
    json.dumps(found).encode()


def test_a_misspelt_field_names_the_nearest() -> None:
    assert 'did you mean "temperature"?' in refusal(temprature=1)["message"]


def test_what_contradicts_itself_is_refused() -> None:
    assert "without temperature" in refusal(n=2)["message"]
    assert "stream_options" in refusal(stream_options={"include_usage": True})["message"]
    assert "two names" in refusal(max_tokens=3, max_completion_tokens=4)["message"]
    assert read(ChatRequest, ASKED | {"max_tokens": 3, "max_completion_tokens": 3}).limit == 3


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]), ([], [])],
)
def test_prompts_are_texts_or_tokens_one_or_several(prompt: Any, expected: list[Any]) -> None:
    assert read(CompletionRequest, {"model": "m", "prompt": prompt}).prompts == expected


@pytest.mark.parametrize("prompt", [None, 3, [1.5], ["a", 1], [[["a"]]], {}])
def test_other_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(Refused) as caught:
        read(CompletionRequest, {"model": "m", "prompt": prompt})
    assert caught.value.param == "prompt"
