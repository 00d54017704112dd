"""Some hundred inputs that were made to be wrong; `python benchmarks/fuzz.py` makes as many as one has time for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import fuzzing
from residency.data import readers
from residency.data.readers import Options
from residency.errors import UserError
from residency.serve.refused import Refused
from residency.serve.served import load
from residency.serve.wire import ChatRequest, read
from serving import LOOPBACK, made, serving

few = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@few
@given(given=fuzzing.READERS.inputs)
def test_a_damaged_data_file_is_a_table_or_a_line(given: Any) -> None:
    fuzzing.READERS.check(given)


@few
@given(given=fuzzing.RECIPES.inputs)
def test_a_damaged_recipe_is_a_recipe_or_a_line(given: Any) -> None:
    fuzzing.RECIPES.check(given)


@few
@given(given=fuzzing.REQUESTS.inputs)
def test_a_damaged_request_is_understood_or_refused(given: bytes) -> None:
    fuzzing.REQUESTS.check(given)


@pytest.fixture(scope="module")
def address(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    run = made(llama_folder, tmp_path_factory.mktemp("runs") / "small")
    with serving(load(run, LOOPBACK, compare=False, say=pytest.fail)) as there:
        yield there.address


def test_a_server_answers_damaged_requests_or_says_what_is_wrong(address: str) -> None:
    check = fuzzing.answer_at(address)

    @few
    @given(body=fuzzing.bodies())
    def each(body: bytes) -> None:
        check(body)

    each()


# What was found so far, each with the input that showed it.


def test_a_field_with_line_breaks_in_its_name_is_refused_in_one_line() -> None:
    with pytest.raises(Refused) as refused:
        read(ChatRequest, {"a\nb\u2028c": None})
    assert len(refused.value.message.splitlines()) == 1


def test_a_workbook_whose_directory_points_before_its_beginning_is_a_line(tmp_path: Path) -> None:
    whole = fuzzing.workbook({"Rows": [["question", "answer"], ["Why?", "So."]]})
    (tmp_path / "a.xlsx").write_bytes(whole[60:])
    with pytest.raises(UserError, match="not a readable xlsx file"):
        readers.read(tmp_path / "a.xlsx", Options())
