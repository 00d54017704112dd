"""Files of JSON lines that grow by a row at a time, and are read again after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def add(file: Path, row: Mapping[str, Any]) -> None:
    """Write a row on a line of its own, also after one that a kill cut short.

    Half of a surrogate pair, which no UTF-8 can hold, is written as JSON's escape.
    """
    with file.open("a", encoding="utf-8", errors="backslashreplace") as opened:
        opened.write("\n" + json.dumps(row, ensure_ascii=False) + "\n")


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a file, none where there is no file; a line that holds no JSON object is passed over."""
    for line in file.read_bytes().split(b"\n") if file.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
