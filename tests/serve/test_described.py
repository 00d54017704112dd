"""The OpenAPI document against the server: by schemathesis, and by what the two say of each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings

from residency.serve.served import load
from residency.serve.wire import HARMLESS, NOTHING
from serving import LOOPBACK, Serving, made, serving

schemathesis = pytest.importorskip("schemathesis", reason="the document is tried by schemathesis")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.specs.openapi import checks  # noqa: E402

# What may be asked is more than the document can say (roles take turns), so that a sound request may be refused.
HELD = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
few = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def served(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    run = made(llama_folder, tmp_path_factory.mktemp("runs") / "small")
    with serving(load(run, LOOPBACK, compare=False, say=pytest.fail)) as there:
        yield there


@pytest.fixture(scope="module")
def document(served: Serving) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(f"{served.address}/openapi.json").json()
    return found


PATHS = ("/v1/models", "/v1/models/{name}", "/v1/chat/completions", "/v1/completions", "/healthz", "/metrics")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_server_does_what_its_document_says(
    served: Serving, document: dict[str, Any], path: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document).include(path=path)
    schema.config.update(base_url=served.address)
    if mode is GenerationMode.NEGATIVE and path not in ("/v1/chat/completions", "/v1/completions"):
        return  # what takes nothing can't be given anything wrong
    asked: set[int] = set()

    @few
    @given(case=schema.as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        if isinstance(case.body, dict) and mode is GenerationMode.POSITIVE:
            case.body = case.body | ({"model": "small"} if "model" in case.body else {})
            case.body |= (
                {"max_tokens": 2, "max_completion_tokens": None} if "messages" in case.body else {"max_tokens": 2}
            )
        answer = case.call()
        asked.add(answer.status_code)
        case.validate_response(answer, checks=HELD)

    each()
    assert (200 in asked) or (mode is GenerationMode.NEGATIVE) or "name" in path
    if mode is GenerationMode.NEGATIVE:
        assert 400 in asked


def test_the_document_holds_every_route_but_the_pages(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == set(PATHS)
    assert document["openapi"].startswith("3.")
    assert "securitySchemes" not in document["components"]
    for operations in document["paths"].values():
        for operation in operations.values():
            assert "422" not in operation["responses"]


def test_a_whole_answer_and_a_whole_request_are_as_the_document_says(served: Serving, document: dict[str, Any]) -> None:
    import jsonschema

    def fits(value: Any, name: str) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)

    said = [
        {"role": "user", "content": "A cough?"},
        {"role": "assistant", "content": "Rest.", "refusal": None, "tool_calls": []},
    ]
    asked = {
        "model": "small",
        "messages": [*said, said[0]],
        "max_tokens": 3,
        "stop": "x",
        "tool_choice": "auto",
        "user": "me",
    }
    fits(asked, "ChatRequest")
    for path, body, name in (
        ("/v1/chat/completions", asked, "ChatCompletion"),
        ("/v1/completions", {"model": "small", "prompt": [[1, 2], [3]], "max_tokens": 3}, "Completion"),
    ):
        answer = served.post(path, body)
        assert answer.status_code == 200
        fits(answer.json(), name)
        fits(served.post(path, {}).json(), "Error")
    fits(httpx2.get(f"{served.address}/v1/models").json(), "Models")


def test_what_is_passed_over_and_what_is_refused_stands_in_the_document(document: dict[str, Any]) -> None:
    for name in ("ChatRequest", "CompletionRequest"):
        schema = document["components"]["schemas"][name]
        assert schema["additionalProperties"] is False
        assert set(schema["properties"]) >= HARMLESS | set(NOTHING)
