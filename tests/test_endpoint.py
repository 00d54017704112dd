from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from residency.endpoint import LONGEST_REPLY, Endpoint
from residency.errors import UserError
from streams import KEY, PIECES, Server, at_once, broken, failing, refusing, serving, slowly

ASKED = [{"role": "user", "content": "What helps against a cold?"}]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as opened:
        yield opened


def endpoint(server: Server, waits: list[float] | None = None, **values: Any) -> Endpoint:
    made = Endpoint(server.address, "big", KEY, "OPENAI_API_KEY", temperature=0, setting="--against", retries=2)
    return replace(made, sleep=(waits if waits is not None else []).append, **values)


def test_an_answer_is_heard_as_it_streams_with_real_times_and_the_endpoints_own_count(server: Server) -> None:
    server.script = [slowly]
    reply = endpoint(server).stream(ASKED, 50)
    assert (reply.text, reply.tokens, reply.reason, reply.streamed) == ("".join(PIECES), 7, "stop", True)
    assert reply.first < 0.15 < 0.2 <= reply.seconds
    ((key, body),) = server.seen
    assert key == f"Bearer {KEY}"
    assert body["messages"] == ASKED
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0, 50, True)


def test_a_server_that_does_not_stream_is_understood_and_told_apart(server: Server) -> None:
    server.script = [at_once]
    reply = endpoint(server).stream(ASKED, 50)
    assert (reply.text, reply.tokens, reply.streamed) == ("".join(PIECES), 7, False)
    assert reply.first == reply.seconds


@pytest.mark.parametrize("way", [broken, failing])
def test_a_stream_that_breaks_is_asked_for_again_and_gives_no_half_answer(server: Server, way: Any) -> None:
    server.script = [way]
    waits: list[float] = []
    assert endpoint(server, waits).stream(ASKED, 50).text == "".join(PIECES)
    assert (len(server.seen), waits) == (2, [1.0])


def test_one_that_breaks_each_time_ends_in_an_error_after_the_tries(server: Server) -> None:
    server.script = [broken] * 9
    with pytest.raises(UserError, match=r"--against http.*#big: no reply after 3 tries \(the stream broke"):
        endpoint(server).stream(ASKED, 50)
    assert len(server.seen) == 3


def test_a_busy_server_is_waited_for_as_long_as_it_asks(server: Server) -> None:
    server.script = [refusing(429, "slow down", Retry_After="3"), refusing(503, "starting")]
    waits: list[float] = []
    endpoint(server, waits).stream(ASKED, 50)
    assert waits == [3.0, 2.0]


def test_a_refused_key_is_named_by_its_variable_and_never_shown(server: Server) -> None:
    server.script = [refusing(401, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(UserError, match=r"refuses the key.*check OPENAI_API_KEY") as error:
        endpoint(server).stream(ASKED, 50)
    assert KEY not in str(error.value)
    assert len(server.seen) == 1


def test_what_a_server_does_not_know_is_asked_in_its_own_words(server: Server) -> None:
    server.script = [
        refusing(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        refusing(422, "stream_options: extra fields not permitted"),
    ]
    assert endpoint(server).stream(ASKED, 50).text
    last = server.seen[-1][1]
    assert last["max_completion_tokens"] == 50
    assert not {"max_tokens", "stream_options"} & set(last)


def test_a_reply_is_bounded_also_where_the_bound_has_another_name(server: Server) -> None:
    server.script = [
        refusing(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        at_once,
    ]
    assert endpoint(server).ask(["Which one is better?"]) == ["".join(PIECES)]
    assert [seen[1].get("max_tokens") for seen in server.seen] == [LONGEST_REPLY, None]
    assert server.seen[-1][1]["max_completion_tokens"] == LONGEST_REPLY


def test_another_refusal_is_an_error_at_once(server: Server) -> None:
    server.script = [refusing(400, "temperature does not support 0 with this model")]
    with pytest.raises(UserError, match=r"refuses the request .*temperature"):
        endpoint(server).stream(ASKED, 50)
