from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from fastapi import APIRouter

from residency.decoding.choosing import Choosing
from residency.decoding.chosen import Chosen
from residency.errors import UserError
from residency.models import load_base, load_prompt
from residency.recipe import Recipe
from residency.serve import server
from residency.serve.served import Service, service_of
from residency.serve.settings import Settings
from serving import LOOPBACK, Serving, serving, until

TOKEN = "0123456789abcdef"
ASKED = {"model": "small", "messages": [{"role": "user", "content": "A cough?"}], "max_tokens": 2}
pages = APIRouter()


@pages.get("/broken")
async def broken() -> None:
    raise RuntimeError("the secret of the house")


@pytest.fixture(scope="module")
def untrained(llama_folder: Path) -> Chosen:
    recipe = Recipe.parse({"name": "small", "data": {"source": "clinic"}, "model": {"base": str(llama_folder)}})
    return Chosen("tuned", load_base(recipe.model), load_prompt(recipe), Choosing(), 256)


def service(model: Chosen, settings: Settings = LOOPBACK) -> Service:
    return service_of({"small": model}, settings, limit=8, say=pytest.fail)


@pytest.fixture(scope="module")
def served(untrained: Chosen) -> Iterator[Serving]:
    with serving(service(untrained), routers=[pages]) as there:
        yield there


def error(answer: httpx2.Response) -> Any:
    found = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def test_another_name_for_this_machine_is_refused(served: Serving) -> None:
    url = f"{served.address}/v1/models"
    assert httpx2.get(url, headers={"Host": "evil.example"}).status_code == 400
    assert httpx2.get(url, headers={"Host": "127.0.0.1.evil.example:8080"}).status_code == 400
    for host in ("localhost", "127.0.0.1:1", "[::1]:8080", "LOCALHOST:9"):
        assert httpx2.get(url, headers={"Host": host}).status_code == 200


def test_a_page_of_another_origin_is_refused_and_one_of_its_own_is_not(served: Serving) -> None:
    own = served.address
    for origin in ("https://evil.example", "null", f"{own}0", own.replace("127.0.0.1", "localhost")):
        answer = served.post("/v1/chat/completions", ASKED, headers={"Origin": origin})
        assert (answer.status_code, error(answer)["code"]) == (403, "foreign_origin")
        assert "access-control-allow-origin" not in answer.headers
    assert served.post("/v1/chat/completions", ASKED, headers={"Origin": own}).status_code == 200


def test_a_body_that_is_too_large_is_refused_with_and_without_a_length(untrained: Chosen) -> None:
    settings = replace(LOOPBACK, body_bytes=2000)
    with serving(service(untrained, settings), settings) as there:
        large = ASKED | {"user": "x" * 2000}
        answer = there.post("/v1/chat/completions", large)
        assert (answer.status_code, error(answer)["code"]) == (413, "request_too_large")

        def pieces() -> Iterator[bytes]:
            for start in range(0, 4000, 100):
                yield json.dumps(large).encode()[start : start + 100]

        answer = httpx2.post(f"{there.address}/v1/chat/completions", content=pieces())
        assert (answer.status_code, error(answer)["code"]) == (413, "request_too_large")
        assert there.post("/v1/chat/completions", ASKED).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000, b'{"model": ' + b"1" * 5000 + b"}"]
)
def test_a_body_that_is_no_json_object_is_a_400(served: Serving, body: bytes) -> None:
    answer = httpx2.post(f"{served.address}/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert error(answer)["type"] == "invalid_request_error"


def test_other_paths_and_methods_get_error_objects_too(served: Serving) -> None:
    answer = httpx2.get(f"{served.address}/v1/embeddings")
    assert answer.status_code == 404 and "/v1/embeddings" in error(answer)["message"]
    assert error(httpx2.get(f"{served.address}/v1/models/other"))["code"] == "model_not_found"
    assert httpx2.get(f"{served.address}/v1/chat/completions").status_code == 405


def test_a_fault_of_a_route_says_nothing_of_itself_and_the_server_lives(served: Serving) -> None:
    answer = httpx2.get(f"{served.address}/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text and error(answer)["type"] == "server_error"
    assert httpx2.get(f"{served.address}/healthz").json() == {"status": "ok"}


def test_requests_are_counted_by_route_and_status_and_not_by_path(served: Serving) -> None:
    for number in range(3):
        httpx2.get(f"{served.address}/nowhere/{number}")
    served.post("/v1/chat/completions", ASKED)
    text = httpx2.get(f"{served.address}/metrics").text
    assert 'residency_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert 'residency_requests_total{route="other",status="404"}' in text
    assert "nowhere" not in text and "cough" not in text
    assert served.number("residency_time_to_first_token_seconds_count") >= 1


def test_with_a_token_nobody_is_answered_without_it(untrained: Chosen) -> None:
    settings = replace(LOOPBACK, token=TOKEN)
    with serving(service(untrained, settings), settings) as there:
        for key in ("wrong", TOKEN + "x", TOKEN[:-1], "\u00e9"):
            headers = {"Authorization": f"Bearer {key}".encode()}
            answer = httpx2.get(f"{there.address}/v1/models", headers=headers)
            assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        with pytest.raises(openai.AuthenticationError, match="needs its token"):
            there.client().models.list()
        assert httpx2.get(f"{there.address}/metrics").status_code == 401
        assert httpx2.get(f"{there.address}/healthz").status_code == 200
        assert [model.id for model in there.client(api_key=TOKEN).models.list()] == ["small"]


def test_only_this_machine_is_listened_to_without_a_token() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UserError, match="--token-env"):
            Settings(host=host)
        assert not Settings(host=host, token=TOKEN).home
    for host in ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"):
        assert Settings(host=host).home
    with pytest.raises(UserError, match="at least 16"):
        Settings(token="short")
    assert TOKEN not in repr(Settings(token=TOKEN))


def test_names_that_are_answered_are_this_machines_and_those_that_are_allowed() -> None:
    assert Settings().answered == ["127.0.0.1", "[::1]", "localhost"]
    assert "me.example" in Settings(hosts=("me.example",)).answered
    assert Settings(host="0.0.0.0", token=TOKEN).answered == ["*"]
    assert "*" not in Settings(host="0.0.0.0", token=TOKEN, hosts=("me.example",)).answered


def test_a_port_that_is_taken_and_an_address_that_is_none_are_the_users_errors() -> None:
    with server.listen(Settings(port=0)) as taken:
        taken.listen()
        with pytest.raises(UserError, match="--port 0 finds one"):
            server.listen(Settings(port=taken.getsockname()[1]))
    with pytest.raises(UserError, match="no address of this machine"):
        server.listen(Settings(host="no.such.host.invalid", token=TOKEN))


@pytest.mark.fault(
    "a client that leaves in the middle of its question", "serve", "nothing runs for it; others are answered"
)
def test_a_client_that_leaves_before_it_has_said_all_does_no_harm(served: Serving) -> None:
    host, port = served.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as opened:
        opened.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{")
    until(lambda: served.number("residency_running") == 0)
    assert served.post("/v1/chat/completions", ASKED).status_code == 200
