"""Serving by vLLM: everything that is not vLLM's own, with a stand-in for its engine (tests/vllms.py)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest

from residency.decoding import chosen
from residency.decoding.chosen import Chosen
from residency.errors import UserError
from residency.models import BASE, load_prompt
from residency.serve import vllm_core, vllm_fit
from residency.serve.served import load, service_with
from residency.serve.settings import Settings
from residency.workspace import Run
from serving import LOOPBACK, Serving, made, serving, until
from vllms import StandIn, core

QUESTION: Any = [{"role": "user", "content": "What about a fever?"}]
FEW = replace(LOOPBACK, rows=2, queue=1)


@pytest.fixture(scope="module")
def run(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(llama_folder, tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def model(run: Run) -> Chosen:
    return chosen.tuned(run, load_prompt(run.recipe))


@contextmanager
def by_vllm(run: Run, model: Chosen, settings: Settings = FEW, **options: Any) -> Iterator[tuple[Serving, StandIn]]:
    made = core(model, settings.rows, **options)
    remote = vllm_core.remote(run, model.prompt)
    with serving(service_with({"small": (remote, made)}, settings, limit=12), settings) as there:
        yield there, made.llm


def test_what_is_known_of_the_model_without_its_weights_is_what_the_model_says(run: Run, model: Chosen) -> None:
    remote = vllm_core.remote(run, model.prompt)
    for name in ("name", "choosing", "window", "vocabulary"):
        assert getattr(remote, name) == getattr(model, name)


@pytest.mark.parametrize("together", [1, 3])
def test_clients_get_what_the_own_engine_gives_them(run: Run, model: Chosen, together: int) -> None:
    wanted: list[dict[str, Any]] = [
        {"messages": QUESTION},
        {"messages": QUESTION, "max_tokens": 40, "stop": ["e"]},
        {"messages": QUESTION, "temperature": 1.0, "seed": 3, "n": 2},
        {"messages": [*QUESTION, {"role": "assistant", "content": "Rest."}, *QUESTION], "max_tokens": 5},
    ]
    with serving(load(run, FEW, compare=False, say=pytest.fail), FEW) as there:
        expected = [there.client().chat.completions.create(model="small", **one) for one in wanted]
    with by_vllm(run, model, together=together) as (there, _):
        found = [there.client().chat.completions.create(model="small", **one) for one in wanted]
        streams = [there.client().chat.completions.create(model="small", stream=True, **one) for one in wanted[:2]]
        streamed = ["".join(part.choices[0].delta.content or "" for part in stream) for stream in streams]
    assert [one.choices for one in found] == [one.choices for one in expected]
    assert [one.usage for one in found] == [one.usage for one in expected]
    assert streamed == [one.choices[0].message.content for one in expected[:2]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_has_vllm_called_off(run: Run, model: Chosen, stream: bool) -> None:
    with by_vllm(run, model, seconds=0.03) as (there, llm):
        body = {"model": "small", "messages": QUESTION, "max_tokens": 200, "stream": stream}
        where = f"{there.address}/v1/chat/completions"
        if stream:
            with httpx2.stream("POST", where, json=body, timeout=60) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.post(where, json=body, timeout=0.5)
        until(lambda: there.number("residency_running") == 0 and len(llm.left) == 1, 2)
        assert there.number("residency_tokens_generated_total") < 150


def test_a_stop_string_calls_vllm_off_as_well(run: Run, model: Chosen) -> None:
    with by_vllm(run, model) as (there, llm):
        whole = there.client().chat.completions.create(model="small", messages=QUESTION, max_tokens=100)
        assert whole.usage and whole.usage.completion_tokens == 100 and not llm.left
        stop = (whole.choices[0].message.content or "")[10:14]
        cut = there.client().chat.completions.create(model="small", messages=QUESTION, max_tokens=100, stop=stop)
        assert cut.choices[0].finish_reason == "stop" and cut.usage and cut.usage.completion_tokens < 30
        until(lambda: len(llm.left) == 1, 5)  # the answer is sent before vLLM is told


def test_a_full_queue_and_a_slow_answer_are_told_as_by_the_own_engine(run: Run, model: Chosen) -> None:
    with by_vllm(run, model, replace(FEW, seconds=1.0), seconds=0.03) as (there, llm):
        client = there.client()
        options: Any = {"model": "small", "messages": QUESTION, "max_tokens": 200}
        streams = [client.chat.completions.create(stream=True, **options) for _ in range(3)]
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**options)
        assert caught.value.code == "queue_full"
        assert there.number("residency_queue_length") == 1
        with pytest.raises(openai.APIError, match="more than 1 seconds"):
            list(streams[0])
        until(lambda: there.number("residency_running") == there.number("residency_queue_length") == 0, 5)
        assert len(llm.left) >= 2  # the third may have come in where the first left


def test_a_process_of_vllms_that_ends_takes_the_server_s_health_with_it(run: Run, model: Chosen) -> None:
    with by_vllm(run, model, seconds=0.03) as (there, llm):
        client = there.client()
        stream = client.chat.completions.create(model="small", messages=QUESTION, max_tokens=200, stream=True)
        next(stream)
        llm.errored = True
        with pytest.raises(openai.APIError, match="log says more"):
            list(stream)
        until(lambda: httpx2.get(f"{there.address}/healthz").status_code == 503)
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="small", messages=QUESTION)
    assert llm.ended


def test_a_server_that_stops_ends_vllm_and_counts_what_it_cut_off(run: Run, model: Chosen) -> None:
    with by_vllm(run, model, seconds=0.03) as (there, llm):
        stream = there.client().chat.completions.create(model="small", messages=QUESTION, max_tokens=200, stream=True)
        next(stream)
        there.service.worker.stop()
        assert there.service.models["small"].engine.cut == 1
        with pytest.raises(openai.APIError):
            list(stream)
        assert llm.ended and len(llm.left) == 1


def test_a_seed_is_a_number_that_torch_takes() -> None:
    assert vllm_core.number("3/0") == vllm_core.number("3/0") != vllm_core.number("3/1")
    assert 0 <= vllm_core.number("3/0") < 2**63


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """vLLM seems to be installed; what it says of the machine can be set."""
    platform = SimpleNamespace(is_cuda_alike=lambda: True, is_cpu=lambda: False)
    monkeypatch.setattr(vllm_fit, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.platforms", SimpleNamespace(current_platform=platform))
    for name in vllm_fit.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return platform


def test_a_run_that_fits_is_not_refused(run: Run, installed: SimpleNamespace) -> None:
    vllm_fit.refuse(run, compare=False)


def test_what_vllm_cannot_do_is_refused_by_name(
    run: Run, installed: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(told: str, run: Run = run, compare: bool = False) -> None:
        with pytest.raises(UserError, match=told) as caught:
            vllm_fit.refuse(run, compare=compare)
        assert str(caught.value).startswith("--engine vllm: ") and "\n" not in str(caught.value)

    refused("takes one", compare=True)
    installed.is_cuda_alike = lambda: False
    refused("no GPU with CUDA")
    other = made(Path(run.recipe.model.base), tmp_path / "other")
    model = other.folder / "model"
    other.write_json("model/generation_config.json", {"no_repeat_ngram_size": 3})
    refused("come twice", other)
    config = other.read_json("model/config.json", "train")
    other.write_json("model/config.json", config | {"quantization_config": {"quant_method": "bitsandbytes"}})
    refused(r"packed \(bitsandbytes\)", other)
    (model / "model.safetensors").rename(model / "small.gguf")
    refused("no safetensors", other)
    (model / BASE).write_text("{}")
    refused("prompt-tuning", other)
    monkeypatch.setattr(vllm_fit, "find_spec", lambda _: None)
    refused("not installed; pip install", other)


@pytest.mark.skipif(vllm_fit.find_spec("vllm") is not None, reason="vLLM is installed")
def test_the_command_says_that_vllm_is_missing_before_anything_loads(run: Run) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "residency", "serve", str(run.folder), "--engine", "vllm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert line == "residency: --engine vllm: vLLM is not installed; pip install 'residency[vllm]'"
    assert " torch\n" not in done.stderr


def test_an_engine_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UserError, match='did you mean "vllm"'):
        Settings(engine="vlm")
