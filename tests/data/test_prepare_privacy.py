from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conftest import dialogues, write_jsonl
from residency.data import DataReport, prepare
from residency.errors import UserError
from residency.models import load_tokenizer
from residency.progress import Silent
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.workspace import Run


class Lines(Silent):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def prepared(source: Path, llama_folder: Path, **data: Any) -> tuple[DataReport, Run, str]:
    """What comes of a source, the run, and all that the run's files and the lines on the screen say."""
    raw = {"name": "x", "data": {"source": str(source), "test": 0, "validation": 0, **data}}
    recipe = Recipe.parse(raw | {"model": {"base": str(llama_folder)}})
    run, lines = Run.create(source.parent / "run", recipe), Lines()
    report = prepare(recipe, run, Prompt.build(recipe.prompt, load_tokenizer(recipe.model)), lines)
    texts = [path.read_text("utf-8") for path in (run.folder / "data").glob("*.json*")]
    tables = [str(pl.read_parquet(path).rows()) for path in (run.folder / "data").glob("*.parquet")]
    return report, run, "\n".join([*texts, *tables, *lines.said])


def columns() -> dict[str, str]:
    return {"question": "Description", "answer": "Doctor"}


def test_kinds_are_counted_and_told_and_no_value_is_written(tmp_path: Path, llama_folder: Path) -> None:
    rows = dialogues(6)
    rows[0]["Doctor"] = "Write to jane@x.example or john@x.example; she was born on 3 May 1961."
    rows[1]["Doctor"] = "My SSN is 123-45-6789, my card 4111 1111 1111 1111."
    report, run, written = prepared(write_jsonl(tmp_path / "a.jsonl", rows), llama_folder, **columns())
    counts = {"email": 2, "phone": 0, "birth_date": 1, "national_id": 1, "credit_card": 1}
    assert report.redacted == run.read_json("data/report.json", "prepare")["redacted"] == counts
    assert "Personal data replaced: 2 email, 1 birth date" in written
    assert "[EMAIL_1] or [EMAIL_2]" in written
    for value in ("jane@", "1961", "123-45", "4111"):
        assert value not in written


def test_a_sample_of_cleaning_shows_nothing_that_cleaning_took_out(tmp_path: Path, llama_folder: Path) -> None:
    rows = dialogues(4)
    rows[0]["Doctor"] += " See https://x.example/user/jane-doe and  rest."
    rows[1]["Doctor"] += "  Drink  much."
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    report, _, written = prepared(source, llama_folder, **columns(), clean=["links", "white-space"])
    assert report.redacted == {"email": 0, "phone": 0}
    assert [step.rows for step in report.cleaned] == [1, 2]
    assert [[row for row, _, _ in step.samples] for step in report.cleaned] == [[], [2]]
    assert "jane-doe" not in written


def talk(role: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "How?"}, {"role": "assistant", "content": "So, and no other way."}]}


def test_a_dropped_row_shows_no_personal_data_either(tmp_path: Path, llama_folder: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [talk("user"), talk("jane@x.example")])
    report, _, written = prepared(source, llama_folder, on_error="skip")
    assert report.dropped == {"malformed conversation": 1}
    assert 'unknown role "[EMAIL]"' in report.dropped_samples[0]["answer"]
    assert "jane@" not in written


def test_an_error_shows_no_personal_data(tmp_path: Path, llama_folder: Path) -> None:
    with pytest.raises(UserError, match=r'row 2: message 1: unknown role "\[EMAIL\]"'):
        prepared(write_jsonl(tmp_path / "a.jsonl", [talk("user"), talk("jane@x.example")]), llama_folder)
    (tmp_path / "a.csv").write_text("jane@x.example,rest\njohn@x.example,water\n")
    with pytest.raises(UserError, match=r"its columns are \[EMAIL\], rest"):
        prepared(tmp_path / "a.csv", llama_folder)


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of an endpoint, and what it was sent."""
    bodies: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            pair = {"question": "Where can a patient with a fever write to?", "answer": "Write to new@x.example."}
            reply = json.dumps({"choices": [{"message": {"content": json.dumps({"pairs": [pair]})}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_endpoint_sees_texts_without_personal_data_and_its_pairs_are_redacted_too(
    tmp_path: Path, llama_folder: Path, asked: tuple[str, list[str]]
) -> None:
    text = "# Fever of jane@x.example\n\nA patient with a fever can write to jane@x.example or ring 020 7946 0182 now."
    source = write_jsonl(tmp_path / "a.jsonl", [{"text": text, "source": "of-jane@x.example.txt"}])
    section = {"by": ["model"], "endpoint": asked[0], "model": "small", "key_env": None, "grounded": 0.0}
    report, _, written = prepared(source, llama_folder, synthesise=section)
    assert len(asked[1]) == 1
    assert "[EMAIL]" in asked[1][0] and "[PHONE]" in asked[1][0]
    assert "jane" not in asked[1][0] and "7946" not in asked[1][0]
    assert report.redacted == {"email": 3, "phone": 1}  # two in the text, one that the model made up
    assert "new@" not in written
    assert "7946" not in written


def test_a_special_token_in_a_text_is_a_finding(tmp_path: Path, llama_folder: Path) -> None:
    rows = dialogues(6)
    rows[2]["Doctor"] = "Rest.<|im_end|> And much water, for as long as it takes to feel well again."
    rows[4]["Description"] += " <|im_start|>system"
    report, _, _ = prepared(write_jsonl(tmp_path / "a.jsonl", rows), llama_folder, **columns())
    (found,) = (finding for finding in report.findings if finding.kind == "special-tokens")
    assert (found.severity, found.count) == ("warning", 2)
    assert [row for row, _ in found.examples] == [3, 5]
    assert "<|im_end|>" in found.examples[0][1]
    assert "(<|im_end|>, <|im_start|>)" in found.advice
