"""Where rows come from: local files, folders and globs, hub data sets, and the built-in clinic."""

from __future__ import annotations

import bisect
import csv
import glob
import json
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from residency.errors import UserError, listed, nearest
from residency.recipe import DataSection
from residency.workspace import sha256

BUILT_IN = ("clinic",)
FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_UNBUILT = (pl.exceptions.PolarsError, TypeError, OverflowError)  # values that make no table
LINES = (".jsonl", ".ndjson", "clinic")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Table:
    """Rows as they were read, all columns, and the rows that could not be read.

    `rows` has a column `row`: the position in the source counted from 1 (for JSONL, the line). Over several files it
    counts on, and `parts` holds each file's name, its first number, and the position in the file of each of its rows.
    """

    rows: pl.DataFrame
    name: str
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    parts: list[tuple[str, int, pl.Series]] = field(default_factory=list)

    def where(self, row: int) -> str:
        """The file and position that a row number stands for."""
        place = bisect.bisect_right(self.parts, row, key=lambda part: part[1]) - 1
        name, number = self.name, row
        if place >= 0:
            name, first, positions = self.parts[place]
            number = positions[row - first]
        return f"{name} {'line' if name.endswith(LINES) else 'row'} {number}"


def load(section: DataSection) -> Table:
    """Read the rows of a recipe's source.

    Raises:
        UserError: the source is missing, unreachable, empty or of an unknown format, or a row (or every row) can't be
            read.
    """
    table = _load(section)
    if table.rows.is_empty():
        bad = table.unreadable
        why = f"none of its {len(bad)} rows can be read (the first: {bad[0][1]})" if bad else "holds no rows"
        raise UserError(f"data.source {table.name}: {why}", "at least one row")
    return table


def _load(section: DataSection) -> Table:
    source = section.source
    if source in BUILT_IN:
        path = resources.files("residency") / "assets" / f"{source}.jsonl"
        with resources.as_file(path) as file:
            return _numbered(_jsonl(file, section), source)
    path = Path(source).expanduser()
    if path.is_file():
        return _numbered(_file(path, section), source)
    if path.is_dir():
        return _numbered(_hub(str(path), section), source)
    files = _globbed(path)
    if files:
        tables = [_numbered(_file(Path(name), section), name) for name in files]
        return _joined(tables, source)
    if _HUB_ID.fullmatch(source) and path.suffix not in FORMATS:
        return _numbered(_hub(source, section), source)
    near = nearest(source, BUILT_IN) or nearest(path.name, _neighbours(path))
    raise UserError(
        f"data.source {source}: no such file", f"a file, folder, glob, hub id, or built in: {listed(BUILT_IN)}", near
    )


def inputs(section: DataSection) -> dict[str, str] | None:
    """The sha256 of each local file that a source is read from; None for a hub data set, which has none."""
    path = Path(section.source).expanduser()
    if section.source in BUILT_IN:
        files = [Path(str(resources.files("residency") / "assets" / f"{section.source}.jsonl"))]
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        files = [path] if path.is_file() else [Path(name) for name in _globbed(path)]
    return {file.name if len(files) == 1 else str(file): sha256(file) for file in files} or None


def _globbed(path: Path) -> list[str]:
    return sorted(glob.glob(str(path), recursive=True)) if any(c in str(path) for c in "*?[") else []  # noqa: PTH207


def _neighbours(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []


def _numbered(read: pl.DataFrame | tuple[pl.DataFrame, list[tuple[int, str]]], name: str) -> Table:
    rows, unreadable = read if isinstance(read, tuple) else (read, [])
    if "row" in rows.columns and rows["row"].dtype != pl.UInt32:
        rows = rows.rename({"row": "row_in_source"})
    if "row" not in rows.columns:
        rows = rows.with_row_index("row", offset=1)
    return Table(rows, name, unreadable)


def _joined(tables: list[Table], name: str) -> Table:
    rows = pl.concat([table.rows.drop("row") for table in tables], how="diagonal_relaxed")
    parts, first = [], 1
    for table in tables:
        parts.append((table.name, first, table.rows["row"]))
        first += table.rows.height
    # Rows that could not be read are numbered after those that could, so that no number stands for two rows.
    faulty = [(table.name, row, why) for table in tables for row, why in table.unreadable]
    unreadable = [(first + place, f"{file}: {why}") for place, (file, _, why) in enumerate(faulty)]
    parts += [(file, first + place, pl.Series([row])) for place, (file, row, _) in enumerate(faulty)]
    return Table(rows.with_row_index("row", offset=1), name, unreadable, parts)


def _file(path: Path, section: DataSection) -> pl.DataFrame | tuple[pl.DataFrame, list[tuple[int, str]]]:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"data.source {path}: unknown format {suffix or '(none)'}", f"one of {listed(FORMATS)}")
    if path.stat().st_size == 0:
        raise UserError(f"data.source {path}: the file is empty", "at least one row")
    try:
        if suffix in (".jsonl", ".ndjson"):
            return _jsonl(path, section)
        if suffix == ".json":
            return _json(path)
        if suffix == ".parquet":
            return pl.read_parquet(path)
        return _csv(path, "\t" if suffix == ".tsv" else ",", section)
    except (*_UNBUILT, csv.Error, UnicodeError, OSError) as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"data.source {path}: not a readable {suffix[1:]} file ({reason})") from None


def _jsonl(path: Path, section: DataSection) -> pl.DataFrame | tuple[pl.DataFrame, list[tuple[int, str]]]:
    """Line by line, so that a faulty line can be named, and so that blank lines don't shift the numbers."""
    rows: list[dict[str, Any]] = []
    unreadable: list[tuple[int, str]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError(f"found {type(value).__name__}")
                if b"\\ud" in line.lower():
                    json.dumps(value, ensure_ascii=False).encode()  # half an emoji is valid JSON, but no text
                own = {"row_in_source": value.pop("row")} if "row" in value else {}
                rows.append({**value, **own, "row": number})
            except (ValueError, RecursionError) as error:
                why = f"line {number}: no JSON object ({error})"
                if section.on_error == "stop":
                    raise _bad_row(path, why) from None
                unreadable.append((number, why))
    try:
        return pl.DataFrame(rows, schema_overrides={"row": pl.UInt32}, infer_schema_length=None), unreadable
    except _UNBUILT as error:
        raise UserError(f"data.source {path}: a column holds values of different kinds ({error})"[:300]) from None


def _json(path: Path) -> pl.DataFrame:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"data.source {path}: not valid JSON ({error})", "an array of objects") from None
    if isinstance(value, list):
        for place, item in enumerate(value, start=1):
            if not isinstance(item, dict):
                raise UserError(f"data.source {path} item {place}: {type(item).__name__}", "an object")
    elif not (isinstance(value, dict) and all(isinstance(column, list) for column in value.values())):
        raise UserError(f"data.source {path}: {type(value).__name__}", "an array of objects, or an object of arrays")
    return pl.DataFrame(value, infer_schema_length=None)


def _csv(path: Path, separator: str, section: DataSection) -> pl.DataFrame | tuple[pl.DataFrame, list[tuple[int, str]]]:
    """Every field as text. Rows of another width than the header's are named."""
    try:
        fast = pl.read_csv(path, separator=separator, infer_schema=False)
        if not fast[:, -1].has_nulls():  # a row that is too short would be filled up with nulls
            return fast
    except pl.exceptions.PolarsError:
        pass
    rows: list[dict[str, Any]] = []
    unreadable: list[tuple[int, str]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=separator)
        header = next(reader, [])
        for number, values in enumerate(reader, start=1):
            if len(values) == len(header):
                rows.append({**dict(zip(header, values, strict=True)), "row": number})
            elif values:
                why = f"line {reader.line_num}: {len(values)} fields, the header has {len(header)}"
                if section.on_error == "stop":
                    raise _bad_row(path, why)
                unreadable.append((number, why))
    return pl.DataFrame(rows, schema_overrides={"row": pl.UInt32}, infer_schema_length=None), unreadable


def _bad_row(path: Path, why: str) -> UserError:
    return UserError(f"data.source {path} {why}", fix="mend it, or set data.on_error: skip")


def _hub(source: str, section: DataSection) -> pl.DataFrame:
    import datasets
    from datasets.exceptions import DatasetsError

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(source, name=section.config, split=section.hub_split, revision=section.revision)
        return loaded.to_polars()  # type: ignore[no-any-return]
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        if Path(source).is_dir():
            raise UserError(f"data.source {source}: can't be read as a data set ({reason})") from None
        raise UserError(
            f"data.source {source}: no such local file, and the hub does not give it ({reason})",
            "a hub data set that can be reached, or a local file",
            "check the name, data.config, data.hub_split and the connection",
        ) from None
    finally:
        if bars:
            datasets.enable_progress_bars()
