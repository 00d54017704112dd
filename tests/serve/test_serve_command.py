from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from residency import virtual
from residency.decoding.choosing import Choosing
from residency.decoding.chosen import Chosen
from residency.models import load_base, load_prompt
from residency.serve.served import service_of
from residency.serve.settings import Settings
from residency.workspace import Run
from serving import LOOPBACK, made, serving

QUESTION: Any = [{"role": "user", "content": "What about a fever?"}]


@pytest.fixture(scope="module")
def run(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(llama_folder, tmp_path_factory.mktemp("runs") / "small", max_length=512)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "residency", "serve", *map(str, arguments)]


@contextmanager
def started(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a user types it, and the address that it prints."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_it_prints_its_address_and_lets_a_running_answer_end_when_it_is_told_to_stop(run: Run) -> None:
    with started(run.folder, "--port", 0, "--compare") as (process, address):
        client = openai.OpenAI(api_key="none", base_url=address, max_retries=0)
        assert [model.id for model in client.models.list()] == ["small", "base"]
        stream = client.chat.completions.create(model="small", messages=QUESTION, max_tokens=400, stream=True)
        parts = [next(stream)]
        process.send_signal(signal.SIGTERM)
        parts += list(stream)
        assert parts[-1].choices[0].finish_reason in ("length", "stop")
        assert len(parts) > 100
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0
        assert told.splitlines()[-1].strip() == "Stopped."
        assert "Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "no token is set"),
        (["--token-env", "NOT_THERE"], "NOT_THERE is not set"),
        (["--token-env", "SHORT"], "at least 16"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run: Run, arguments: list[str], told: str) -> None:
    environment = {**os.environ, "SHORT": "x"}
    done = subprocess.run(command(run.folder, *arguments), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("residency: ") and told in line


def test_a_model_that_does_not_fit_is_answered_one_by_one_and_that_is_said(run: Run) -> None:
    model = virtual.put_before(load_base(run.recipe.model), torch.zeros(3, 32))
    found = {"small": Chosen("tuned", model, load_prompt(run.recipe), Choosing(), 256)}
    said: list[str] = []
    service = service_of(found, LOOPBACK, limit=8, say=said.append)
    assert said == [
        "small answers one request at a time, by transformers' generate: learnt embeddings before the prompt"
    ]
    with serving(service) as there:
        client = there.client()
        options: Any = {"model": "small", "messages": QUESTION, "n": 2, "temperature": 1, "seed": 1}
        whole = client.chat.completions.create(**options)
        assert len({choice.message.content for choice in whole.choices}) == 2
        stream = client.chat.completions.create(
            model="small", messages=QUESTION, n=2, temperature=1, seed=1, stream=True
        )
        texts = ["", ""]
        for part in stream:
            texts[part.choices[0].index] += part.choices[0].delta.content or ""
        assert texts == [choice.message.content for choice in whole.choices]


def test_fewer_answers_run_side_by_side_where_the_memory_is_short(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Chosen("tuned", load_base(run.recipe.model), load_prompt(run.recipe), Choosing(), 512)
    row = 2 * 2 * 2 * 8 * 512 * 4  # keys and values, layers, heads, size of a head, window, bytes
    monkeypatch.setattr("residency.environment.available_memory", lambda: 2 * 3 * row)
    said: list[str] = []
    service = service_of({"small": model}, Settings(), limit=8, say=said.append)
    assert service.models["small"].engine.core.rows == 3
    assert said == ["small: 3 answers side by side and not 16, for which the memory is short"]
