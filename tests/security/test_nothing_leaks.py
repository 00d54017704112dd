"""A whole run with secrets in the environment and personal data in its rows: neither is in any file or line of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from servers import Answering, Listening, listening

SECRETS = {
    "HF_TOKEN": "hf_PLANTEDaaaaaaaaaaaaaaaaaaaaaaaa",
    "RESIDENCY_TOKEN": "residency-PLANTED-0123456789",
    "OPENAI_API_KEY": "sk-PLANTED-bbbbbbbbbbbbbbbbbbbb",
    "PAIRS_KEY": "sk-PLANTED-of-the-endpoint-cccc",
    "WANDB_API_KEY": "wb-PLANTED-dddddddddddddddddddd",
    "AWS_SECRET_ACCESS_KEY": "aws-PLANTED-eeeeeeeeeeeeeeee",
}
PEOPLE = (
    "jane.doe@clinic.example",
    "john@home.example",
    "7946 0182",
    "4111 1111 1111 1111",
    "123-45-6789",
    "3 May 1961",
)
PARTS = ("gland", "bone", "nerve", "vein", "joint", "lung", "heart", "liver", "spleen", "ankle", "elbow", "retina")
TEXT = (
    "# What is a {part}?\n\nA {part} is a part of the body that does its own work, number {n} of them. "
    "Write to jane.doe@clinic.example or ring 020 7946 0182 about a {part}; her SSN is 123-45-6789, she was born on "
    "3 May 1961 and pays by 4111 1111 1111 1111.\n\n"
)


class Endpoint(Listening):
    """`keys` are those that it was sent."""

    keys: list[str]


class Echo(Answering):
    """Gives back a pair that holds the key of the request, and somebody's address."""

    def do_POST(self) -> None:
        server: Any = self.server
        key = self.headers["Authorization"].removeprefix("Bearer ")
        server.keys.append(key)
        asked = json.dumps(self.body())
        part = next(part for part in PARTS if part in asked)
        pair = {
            "question": f"Whom do I ask about a {part}?",
            "answer": f"Ask john@home.example, with {key}, of a {part}.",
        }
        self.send(json.dumps({"choices": [{"message": {"content": json.dumps({"pairs": [pair]})}}]}))


@pytest.fixture(scope="module")
def done(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The run's folder, and all that the command printed."""
    home = tmp_path_factory.mktemp("leaks")
    notes, folder = home / "notes.md", home / "run"
    notes.write_text("".join(TEXT.format(part=part, n=n) for n, part in enumerate(PARTS)))
    with listening(Endpoint, Echo) as endpoint:
        endpoint.keys = []
        made = {"by": ["rules", "model"], "endpoint": endpoint.address, "model": "m", "key_env": "PAIRS_KEY"}
        recipe = {
            "name": "leaks",
            "data": {
                "source": str(notes),
                "synthesise": {**made, "pairs": 1, "grounded": 0.0, "near_duplicate": 1.0},
                "near_duplicate": 1.0,
                "test": 0.2,
                "validation": 0.2,
            },
            "model": {"base": str(llama_folder), "max_length": 512},
            "train": {"max_steps": 2, "examples_per_step": 4, "trackers": ["tensorboard"]},
            "evaluate": {"questions": 2, "max_new_tokens": 8, "resamples": 100},
        }
        (home / "leaks.yaml").write_text(yaml.dump(recipe))
        ran = subprocess.run(
            [sys.executable, "-m", "residency", "run", str(home / "leaks.yaml"), "--out", str(folder)],
            env={**os.environ, **SECRETS},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        assert set(endpoint.keys) == {SECRETS["PAIRS_KEY"]}
    yield folder, ran.stdout + ran.stderr


def written(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file of a run by its name, as text; tables unpacked."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            yield str(path), str(pl.read_parquet(path).rows())
        elif path.is_file() and path.suffix != ".safetensors":
            yield str(path), path.read_bytes().decode("utf-8", "replace")


def test_no_secret_of_the_environment_is_in_a_file_or_a_line(done: tuple[Path, str]) -> None:
    folder, printed = done
    texts = dict(written(folder)) | {"what was printed": printed}
    assert len(texts) > 25
    for value in SECRETS.values():
        assert [name for name, text in texts.items() if value in text] == []
    assert "***" in texts[str(folder / "data" / "replies.jsonl")]  # where the endpoint's key stood
    assert [name for name in texts if "tensorboard" in name]


def test_no_personal_data_of_the_rows_is_in_a_file_or_a_line(done: tuple[Path, str]) -> None:
    folder, printed = done
    texts = dict(written(folder)) | {"what was printed": printed}
    for value in PEOPLE:
        loose = re.compile(r"[\s\\n]*".join(map(re.escape, value.split())))
        assert [name for name, text in texts.items() if loose.search(text)] == []
    shown = {name.rpartition("/")[2] for name, text in texts.items() if re.search(r"\[(?:EMAIL|PHONE)", text)}
    assert shown >= {"train.jsonl", "train.parquet", "train.text.jsonl", "replies.jsonl", "report.html"}


def test_what_is_said_of_the_columns_holds_no_personal_data(tmp_path: Path, llama_folder: Path) -> None:
    """A file without a header has its first row for the names of its columns."""
    from residency import pipeline
    from residency.errors import UserError
    from residency.recipe import Recipe

    source = tmp_path / "a.csv"
    rows = "".join(f"How are things in case {n}?,They are well by day {n * n}.,x\n" for n in range(12))
    source.write_text("jane@x.example,jane@x.example,john@x.example\n" + rows)
    raw: dict[str, Any] = {"name": "x", "data": {"source": str(source), "question": "jane@x.example"}}
    raw |= {"model": {"base": str(llama_folder)}}
    raw["data"] |= {"answer": "jane@x.example_2", "validation": 0.0}
    with pytest.raises(UserError, match=r"names of columns hold personal data \(\[EMAIL\]") as told:
        pipeline.prepare(Recipe.parse(raw), tmp_path / "run")
    assert "jane@" not in str(told.value)
    with pytest.raises(UserError, match="names of columns hold personal data") as told:
        pipeline.init("x", str(source), tmp_path / "x.yaml")
    assert "jane@" not in str(told.value) and not (tmp_path / "x.yaml").exists()
    source.write_text("question,answer,john@x.example,john@x.example\n" + rows.replace(",x\n", ",x,y\n"))
    raw["data"] |= {"question": "question", "answer": "answer"}
    report = pipeline.prepare(Recipe.parse(raw), tmp_path / "other")
    assert any("[EMAIL]" in note for note in report["notes"])
    assert "john@" not in json.dumps(report)


def test_an_error_about_a_row_repeats_no_personal_data(tmp_path: Path) -> None:
    from residency.data import sources
    from residency.errors import UserError
    from residency.recipe import DataSection

    (tmp_path / "a.jsonl").write_text('{"jane@x.example": 1, "jane@x.example": 2}\n')
    for on_error in ("stop", "skip"):
        with pytest.raises(UserError, match=r"stands twice in one object") as told:
            sources.load(DataSection(source=str(tmp_path / "a.jsonl"), on_error=on_error))  # type: ignore[arg-type]
        assert "jane@" not in str(told.value) and "[EMAIL]" in str(told.value)
