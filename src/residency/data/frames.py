"""Values as columns: what JSON, a spreadsheet or a data frame holds, without a value changed or lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from residency.errors import listed

UNBUILT = (pl.exceptions.PolarsError, TypeError, OverflowError)  # what polars says of values that make no column
_JSON = (bool, int, float, list, dict)
_TYPES: dict[type, pl.DataType] = {str: pl.String(), bool: pl.Boolean(), int: pl.Int64(), float: pl.Float64()}


def table(records: Sequence[dict[str, Any]]) -> tuple[pl.DataFrame, list[str]]:
    """The records as rows, a key that one lacks as null; and notes on columns whose values are of several kinds."""
    names = dict.fromkeys(name for record in records for name in record)
    return columns({name: [record.get(name) for record in records] for name in names})


def columns(values: dict[str, list[Any]]) -> tuple[pl.DataFrame, list[str]]:
    """The lists as columns; and notes on those whose values are of several kinds, which become text.

    Raises:
        ValueError: a value holds half of a surrogate pair; the message names its row, counted from 1, and its column.
    """
    try:
        built = {name: _column(name, column) for name, column in values.items()}
        mixed = [name for name, column in built.items() if column is None]
        rows = pl.DataFrame([_text(name, values[name]) if column is None else column for name, column in built.items()])
    except UnicodeEncodeError:
        raise ValueError(f"{_half(values)} half of a surrogate pair, which is no text") from None
    return rows, [f"values of several kinds are kept as text in {listed(mixed)}"] if mixed else []


def named(header: Sequence[str | None]) -> tuple[list[str], list[str]]:
    """Names for columns: an empty one by its place, one that stands twice with a number; and a note on those."""
    names: list[str] = []
    for place, name in enumerate(header, start=1):
        own = (name or "").strip("\ufeff") or f"column_{place}"
        count = 2
        unique = own
        while unique in names:
            unique, count = f"{own}_{count}", count + 1
        names.append(unique)
    changed = [f"{old or '(empty)'} → {new}" for old, new in zip(header, names, strict=True) if old != new]
    return names, [f"columns renamed, since each needs a name of its own: {listed(changed)}"] if changed else []


def joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The frames one below the other; a column that one lacks is null there, one of several kinds becomes text."""
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError:
        kinds: dict[str, set[pl.DataType]] = {}
        for frame in frames:
            for name, kind in frame.schema.items():
                kinds.setdefault(name, set()).add(kind)
        mixed = [name for name, found in kinds.items() if len(found) > 1]
    texts = [f.with_columns(_text(name, f[name].to_list()) for name in mixed if name in f.columns) for f in frames]
    return pl.concat(texts, how="diagonal_relaxed")


def _column(name: str, values: list[Any]) -> pl.Series | None:
    """The values in their own type; None where they have none in common."""
    kinds = set(map(type, values)) - {type(None)}
    if len(kinds) > 1:
        return None
    try:
        if kinds & {list, dict}:
            nested = pl.DataFrame([{name: value} for value in values], infer_schema_length=None)[name]
            # polars makes null of a value that is nested deeper than the type it found, and says nothing.
            return nested if _kept(nested.to_list(), values) else None
        return pl.Series(name, values, dtype=_TYPES[kinds.pop()] if kinds else None)
    except (*UNBUILT, KeyError):
        return None


def _kept(built: Any, value: Any) -> bool:
    """Whether nothing of a JSON value became null in what was built of it; a record may have gained keys."""
    if value is None or built is None:
        return value is None
    if isinstance(value, list) and isinstance(built, list):
        return len(built) == len(value) and all(map(_kept, built, value))
    if isinstance(value, dict) and isinstance(built, dict):
        return all(_kept(built.get(key), own) for key, own in value.items())
    return True


def _half(values: dict[str, list[Any]]) -> str:
    """Which value no file could hold: polars says only that there is one."""
    places = (
        f'row {row}: column "{name}" holds'
        for name, column in values.items()
        for row, value in enumerate(column, start=1)
        if not _encodes(value)
    )
    return next(places, "the name of a column holds")


def _encodes(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(name: str, values: list[Any]) -> pl.Series:
    """Text as it is, what JSON has as JSON, everything else as Python writes it."""
    texts = [
        json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, _JSON) else value and str(value)
        for value in values
    ]
    return pl.Series(name, texts, dtype=pl.String)
