"""Clients that read or write slowly: they hold up nobody, and what they were owed they get."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from residency.serve.served import load
from residency.workspace import Run
from serving import LOOPBACK, Serving, made, serving

QUESTION = [{"role": "user", "content": "What about a fever?"}]
BODY = {"model": "small", "messages": QUESTION, "max_tokens": 150}


@pytest.fixture(scope="module")
def run(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(llama_folder, tmp_path_factory.mktemp("runs") / "small")


def opened(there: Serving) -> socket.socket:
    """A connection with as small a store for what comes in as the system allows."""
    host, port = there.address.removeprefix("http://").split(":")
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    found.connect((host, int(port)))
    found.settimeout(60)
    return found


def posted(body: bytes, length: int) -> bytes:
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: localhost", f"Content-Length: {length}", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode() + body


@pytest.mark.fault("a client that reads slowly", "serve", "others are answered meanwhile, and it gets its whole answer")
def test_a_client_that_reads_slowly_holds_up_nobody_and_gets_everything(run: Run) -> None:
    with serving(load(run, LOOPBACK, compare=False, say=pytest.fail)) as there:
        expected = there.post("/v1/chat/completions", BODY).json()["choices"][0]["message"]["content"]
        body = json.dumps(BODY | {"stream": True}).encode()
        with opened(there) as slow:
            slow.sendall(posted(body, len(body)))
            time.sleep(0.2)
            for _ in range(3):
                answer = there.post("/v1/chat/completions", BODY)
                assert answer.json()["choices"][0]["message"]["content"] == expected
            said = b""
            while part := slow.recv(256):
                said += part
        events = [line for line in said.split(b"\n") if line.startswith(b"data: {")]
        choices = [json.loads(event.removeprefix(b"data: "))["choices"] for event in events]
        assert "".join(one[0]["delta"].get("content") or "" for one in choices if one) == expected
        assert b"data: [DONE]" in said
        assert there.number("residency_running") == 0


@pytest.mark.fault(
    "a client that sends its question slowly", "serve", "408 after a while; others are answered meanwhile"
)
def test_a_body_that_comes_too_slowly_is_given_up(run: Run) -> None:
    settings = replace(LOOPBACK, body_seconds=0.5)
    with serving(load(run, settings, compare=False, say=pytest.fail), settings) as there, opened(there) as slow:
        slow.sendall(posted(b"{", 500))
        assert there.post("/v1/chat/completions", BODY | {"max_tokens": 3}).status_code == 200
        said = slow.recv(65_536)
        assert said.startswith(b"HTTP/1.1 408")
        assert there.number("residency_running") == 0
