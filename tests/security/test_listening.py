"""Who reaches the server, and how much each may ask of it."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from residency.decoding.choosing import Choosing
from residency.decoding.chosen import Chosen
from residency.errors import UserError
from residency.models import load_base, load_prompt
from residency.recipe import Recipe
from residency.serve import connection, server
from residency.serve.served import service_of
from residency.serve.settings import Settings
from serving import LOOPBACK, Serving, serving, until

ASKED: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "A cough?"}], "max_tokens": 2}
TOKEN = "0123456789abcdef"
BODY = json.dumps(ASKED).encode()
Serve = Callable[[Settings], Any]


@pytest.fixture(scope="module")
def serve(llama_folder: Path) -> Serve:
    """What opens a server of the untrained model under some settings."""
    recipe = Recipe.parse({"name": "small", "data": {"source": "clinic"}, "model": {"base": str(llama_folder)}})
    model = Chosen("tuned", load_base(recipe.model), load_prompt(recipe), Choosing(), 256)
    return lambda settings: serving(service_of({"small": model}, settings, limit=4, say=pytest.fail), settings)


@pytest.fixture(scope="module")
def served(serve: Serve) -> Iterator[Serving]:
    with serve(LOOPBACK) as there:
        yield there


def opened(there: Serving) -> socket.socket:
    host, port = there.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in ("POST /v1/chat/completions HTTP/1.1", "Host: localhost", *lines)).encode()


def test_it_listens_on_this_machine_unless_it_has_a_token() -> None:
    with closing(server.listen(Settings(port=0))) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UserError, match="no token is set"):
            Settings(host=host)
        assert Settings(host=host, token=TOKEN).token == TOKEN


def test_a_name_that_is_not_its_own_is_refused_whatever_is_asked(served: Serving) -> None:
    for path in ("/v1/models", "/healthz", "/metrics", "/openapi.json", "/"):
        for name in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "169.254.169.254"):
            assert httpx2.get(f"{served.address}{path}", headers={"Host": name}).status_code == 400


def test_no_other_origin_is_let_in_or_told_that_it_may_read(served: Serving) -> None:
    url = f"{served.address}/v1/chat/completions"
    for origin in ("https://evil.example", "null", "http://localhost.evil.example"):
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for answer in (httpx2.options(url, headers=asks), httpx2.post(url, json=ASKED, headers={"Origin": origin})):
            assert answer.status_code == 403
            assert not [name for name in answer.headers if name.startswith("access-control-")]
    own = httpx2.post(url, json=ASKED, headers={"Origin": served.address})
    assert own.status_code == 200
    assert not [name for name in own.headers if name.startswith("access-control-")]


def test_with_a_token_nothing_is_answered_without_it(serve: Serve) -> None:
    with serve(replace(LOOPBACK, token=TOKEN)) as there:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/", "/nowhere", "/v1/../v1/models", "/healthz/"):
            assert httpx2.get(f"{there.address}{path}").status_code == 401
            assert httpx2.get(f"{there.address}{path}", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert there.post("/v1/chat/completions", ASKED).status_code == 401
        held = {"Authorization": f"Bearer {TOKEN}"}
        assert there.post("/v1/chat/completions", ASKED, headers=held).status_code == 200
        document = httpx2.get(f"{there.address}/openapi.json", headers=held).json()
        assert document["paths"]["/v1/chat/completions"]["post"]["security"] == [{"token": []}]


def test_no_answer_is_taken_for_another_kind_of_file(served: Serving) -> None:
    for path in ("/v1/models", "/healthz", "/nowhere", "/metrics", "/openapi.json"):
        assert httpx2.get(f"{served.address}{path}").headers["x-content-type-options"] == "nosniff"
    refused = httpx2.get(f"{served.address}/healthz", headers={"Host": "evil.example"})
    assert refused.headers["x-content-type-options"] == "nosniff"


def test_a_body_is_bounded_in_size_and_in_time(serve: Serve) -> None:
    with serve(replace(LOOPBACK, body_bytes=300, body_seconds=2.0)) as there:
        assert there.post("/v1/chat/completions", ASKED | {"user": "x" * 300}).status_code == 413
        with closing(opened(there)) as slow:
            slow.sendall(head("Content-Length: 200") + b"\r\n" + BODY[:20])
            answer = slow.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 408") and b'"timeout"' in answer
        assert there.post("/v1/chat/completions", ASKED).status_code == 200


def test_a_head_that_trickles_in_is_waited_for_only_so_long(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SLOWEST_HEAD", 2.0)
    with serve(LOOPBACK) as there, closing(opened(there)) as silent, closing(opened(there)) as slow:
        with pytest.raises(OSError):  # the connection is closed while it still writes
            for byte in head(*(f"X-{n}: {n}" for n in range(500))):
                slow.sendall(bytes([byte]))
                time.sleep(0.02)
        assert silent.recv(1) == b""
        with closing(http.client.HTTPConnection(there.address.removeprefix("http://"), timeout=20)) as kept:
            for _ in range(2):  # one that asks in time is served, again and again
                kept.request("POST", "/v1/chat/completions", BODY)
                answer = kept.getresponse()
                assert answer.status == 200 and answer.read()


def test_connections_are_bounded_and_one_more_is_told_so(serve: Serve) -> None:
    with serve(replace(LOOPBACK, connections=4)) as there:
        holders = [opened(there) for _ in range(4)]
        try:
            assert httpx2.get(f"{there.address}/healthz").status_code == 503
        finally:
            for one in holders:
                one.close()
        until(lambda: httpx2.get(f"{there.address}/healthz").status_code == 200)


def test_answers_are_bounded_in_tokens_time_and_number(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(replace(LOOPBACK, rows=1, queue=1)) as there:
        answer = there.post("/v1/chat/completions", ASKED | {"max_tokens": 10**9}).json()
        assert answer["usage"]["total_tokens"] <= 256
        many = there.post("/v1/chat/completions", ASKED | {"n": 3, "temperature": 1})
        assert (many.status_code, many.json()["error"]["code"]) == (400, "too_many_answers")
        monkeypatch.setattr("residency.serve.asked.plain", lambda *_: pytest.fail("they were read"))
        texts = there.post("/v1/completions", {"model": "small", "prompt": ["a long text " * 20] * 4000})
        assert (texts.status_code, texts.json()["error"]["code"]) == (400, "too_many_answers")
    with serve(replace(LOOPBACK, seconds=0.0)) as there:
        late = there.post("/v1/chat/completions", ASKED | {"max_tokens": 200})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")


def test_a_head_without_end_is_refused(served: Serving) -> None:
    with closing(opened(served)) as endless:
        endless.sendall(head("X: " + "a" * 200_000))
        assert endless.recv(20).startswith(b"HTTP/1.1 400")
