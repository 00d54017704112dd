"""What the first stage leaves in the run folder, and whether what lies there is still what the recipe asks for."""

from __future__ import annotations

import hashlib
import io
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from residency import environment
from residency.data import redirects, sources
from residency.data.split import NAMES
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.workspace import Run, sha256

LIBRARIES = ("residency", "polars", "rensa", "tokenizers", "transformers")
DIALOGUE = ("row", "turn", "system", "history", "question", "answer", "rejected")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "config.json")


def key(recipe: Recipe) -> dict[str, Any] | None:
    """Everything that decides what `data/` holds: settings, input hashes, versions; None where that can't be known.

    A hub data set or model can change under its name, unless the recipe pins a revision.
    """
    inputs = sources.inputs(recipe.data)
    model = Path(recipe.model.base).expanduser()
    local = model.exists()
    if inputs is None and not recipe.data.revision:
        return None
    files = [model / name for name in TOKENIZER if (model / name).is_file()] if model.is_dir() else []
    files += [model] if model.is_file() else []
    return {
        "data": recipe.data.model_dump(mode="json"),
        "prompt": recipe.prompt.model_dump(mode="json"),
        "model": recipe.model.model_dump(mode="json", include={"base", "revision", "max_length"}),
        "template": _hash_of(Path(recipe.prompt.template)),
        "redirects": hashlib.sha256(redirects.text().encode()).hexdigest() if recipe.data.redirects else None,
        "inputs": inputs,
        "tokenizer": {file.name: sha256(file) for file in files} if local else None,
        "versions": {name: version(name) for name in LIBRARIES},
    }


def inputs_of(recipe: Recipe) -> dict[str, str]:
    """The sha256 of each local file that prepared data is made from; none of a data set on the hub."""
    template = _hash_of(Path(recipe.prompt.template))
    mixed = {"redirects": hashlib.sha256(redirects.text().encode()).hexdigest()} if recipe.data.redirects else {}
    return {**(sources.inputs(recipe.data) or {}), **({recipe.prompt.template: template} if template else {}), **mixed}


def origin(recipe: Recipe, given: Any) -> dict[str, Any]:
    """What prepared data says of itself: its `key`, and for the manifest `made_from`; None where a program gave it."""
    if given is not None:
        return {"key": None, "made_from": None}
    made = {"inputs": inputs_of(recipe), "seed": recipe.data.seed, "versions": environment.describe()}
    return {"key": key(recipe), "made_from": made}


def reusable(recipe: Recipe, run: Run) -> bool:
    """Whether the run's data was prepared from just this, and is whole."""
    report = run.folder / "data" / "report.json"
    if not report.is_file():
        return False
    found = json.loads(report.read_text("utf-8"))
    files = found.get("files") or {}
    whole = all(_size(run.folder / name) == size for name, size in files.items())
    return bool(files) and whole and found.get("key") is not None and found["key"] == key(recipe)


def write_rows(run: Run, rows: pl.DataFrame, dropped: pl.DataFrame, prompt: Prompt) -> dict[str, int]:
    """Write the splits as Parquet, JSONL and texts, and the dropped rows; returns each file's size in bytes."""
    columns = [name for name in DIALOGUE if name in rows.columns]
    names = []
    for split in NAMES:
        part = rows.filter(pl.col("split") == split)
        part = part.with_columns(texts(part, prompt)).drop("split", "prompt")
        names += [run.write_bytes(f"data/{split}.parquet", _parquet(part))]
        names += [run.write_bytes(f"data/{split}.jsonl", _jsonl(part.select(columns)))]
        names += [run.write_bytes(f"data/{split}.text.jsonl", _jsonl(part.select("text")))]
    names += [run.write_bytes("data/dropped.parquet", _parquet(dropped))]
    return {path.relative_to(run.folder).as_posix(): path.stat().st_size for path in names}


def texts(rows: pl.DataFrame, prompt: Prompt) -> pl.Series:
    """Each row as the model reads it [rows]."""
    return rows.select((pl.col("prompt") + pl.col("answer") + prompt.end).alias("text")).to_series()


def _jsonl(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_ndjson(buffer)
    return buffer.getvalue()


def _parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()


def _hash_of(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
