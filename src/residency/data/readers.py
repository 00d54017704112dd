"""File formats: from one local file to rows, each with its position, and to the rows that can't be read."""

from __future__ import annotations

import csv
import io
import json
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow.parquet

from residency.data import delimited, frames, privacy
from residency.data.delimited import LONGEST
from residency.data.files import PACKINGS, Encoding, File, encoding_of, refuse_bomb, told
from residency.errors import UserError, listed, reason_of

DEEPEST = 64  # levels of nesting in a JSON value; polars' time grows with their square
CELL = 16  # bytes of a value in a table, about
BINARY = (".parquet", ".xlsx")
TEXTS = (".txt", ".md", ".markdown")
_MAGIC = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
}
# What a damaged file makes a library raise; a PanicException is no Exception, so that nothing else catches it.
_DAMAGED = (csv.Error, UnicodeError, OSError, zipfile.BadZipFile, NotImplementedError, pl.exceptions.PanicException)
# zipfile's ways to say it: no archive, a place before its beginning, a password, a packing that it does not know.
_NO_ZIP = (
    zipfile.BadZipFile,
    ValueError,
    EOFError,
    RuntimeError,
    LookupError,
    zlib.error,
    struct.error,
    lzma.LZMAError,
)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_NO_TEXT = "bytes that are no UTF-8"


@dataclass(frozen=True)
class Options:
    """What a recipe says of reading files; None is found out."""

    on_error: Literal["stop", "skip"] = "stop"
    delimiter: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class Read:
    """The rows of one file, the position of each counted from 1, the unreadable ones, and what the user should know."""

    rows: pl.DataFrame
    positions: Sequence[int]
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unit: Literal["line", "row"] = "row"


@dataclass(frozen=True)
class Faults:
    """The rows of a file that can't be read: the first one stops, or they are listed."""

    file: File
    options: Options
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, position: int, why: str) -> None:
        """Note a row; a UserError where `on_error` is stop."""
        if self.options.on_error == "stop":
            why = privacy.redacted(why)  # a key or a value of the row may stand in it
            raise UserError(f"data.source {self.file.path} {why}", fix="mend it, or set data.on_error: skip")
        self.found.append((position, why))


def read(path: Path, options: Options) -> Read:
    """The rows of a file, by its suffix.

    Raises:
        UserError: the format is unknown, the file is damaged or not of its format, or a row can't be read and
            `on_error` is stop.
    """
    file = File.of(path)
    if file.suffix not in FORMATS:
        raise UserError(
            f"data.source {path}: unknown format {path.suffix or '(none)'}",
            f"one of {listed(FORMATS)}, or one of these with {' or '.join(PACKINGS)}",
        )
    try:
        with file.open() as opened:
            head = opened.read(4)
        if not head:
            return Read(pl.DataFrame(), [], notes=[f"{path.name}: the file is empty"])
        _refuse_disguise(file, head)
        return _READERS[file.suffix](file, options)
    except (*frames.UNBUILT, *_DAMAGED) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: File, error: BaseException) -> UserError:
    kind = file.suffix[1:] + file.path.suffix.lower() * bool(file.packing)
    return UserError(f"data.source {file.path}: not a readable {kind} file ({privacy.redacted(reason_of(error, 160))})")


def _refuse_disguise(file: File, head: bytes) -> None:
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if file.suffix in (".csv", ".tsv") and head.startswith(b'{"'):
        kind = "a JSON file"
    if kind and file.suffix not in BINARY:
        raise UserError(f"data.source {file.path}: is {kind} by its content", f"{file.suffix[1:]} text", "rename it")


def _jsonl(file: File, options: Options) -> Read:
    """Line by line, so that a faulty line can be named, and so that blank lines don't shift the numbers."""
    encoding = encoding_of(file, options.encoding)
    array = _array(file, encoding)
    if array is not None:
        notes = [*told(file, encoding), f"{file.path.name} is a JSON array, and read as one"]
        return _items(file, options, array, notes)
    faults, records, positions = Faults(file, options), [], []
    with file.text(encoding, "\n") as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            try:
                records.append(_object(line, encoding))
                positions.append(number)
            except (ValueError, RecursionError) as error:
                faults.add(number, f"line {number}: no JSON object ({_reason(error)})")
    rows, notes = frames.table(records)
    return Read(rows, positions, faults.found, [*told(file, encoding), *_of(file, notes)], "line")


def _json(file: File, options: Options) -> Read:
    """An array of objects, an object of arrays, or lines of objects under a wrong suffix."""
    encoding = encoding_of(file, options.encoding)
    with file.text(encoding) as opened:
        text = opened.read()
    if not text.strip():
        return Read(pl.DataFrame(), [])
    try:
        value = _loads(text)
    except (ValueError, RecursionError) as error:
        if "Extra data" in str(error) and text.lstrip().startswith("{"):
            lines = _jsonl(file, options)
            return replace(lines, notes=[*lines.notes, f"{file.path.name} holds an object a line, and is read so"])
        raise UserError(
            f"data.source {file.path}: not valid JSON ({privacy.redacted(_reason(error))})", "an array of objects"
        ) from None
    return _items(file, options, value if isinstance(value, list) else _across(file, value), told(file, encoding))


def _across(file: File, value: Any) -> list[dict[str, Any]]:
    """The rows of an object of arrays."""
    if not (isinstance(value, dict) and all(isinstance(column, list) for column in value.values())):
        raise UserError(f"data.source {file.path}: {_kind(value)}", "an array of objects, or an object of arrays")
    heights = {name: len(values) for name, values in value.items()}
    if len(set(heights.values())) > 1:
        counts = listed(f"{name} {height:,}" for name, height in heights.items())
        raise UserError(f"data.source {file.path}: arrays of different lengths ({counts})", "arrays of one length")
    return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


def _array(file: File, encoding: Encoding) -> list[Any] | None:
    """The array that a file of lines is in truth; None where it is none."""
    with file.text(encoding) as text:
        if not next((line for line in text if line.strip()), "").lstrip().startswith("["):
            return None
    try:
        with file.text(encoding) as text:
            value = _loads(text.read())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and any(isinstance(item, dict) for item in value) else None


def _items(file: File, options: Options, values: list[Any], notes: Iterable[str]) -> Read:
    faults, records, positions = Faults(file, options), [], []
    for number, value in enumerate(values, start=1):
        try:
            records.append(_sound(value, deep=True, encodes=False))
            positions.append(number)
        except (ValueError, RecursionError) as error:
            faults.add(number, f"row {number}: no JSON object ({_reason(error)})")
    rows, more = frames.table(records)
    return Read(rows, positions, faults.found, [*notes, *_of(file, more)])


def _of(file: File, notes: list[str]) -> list[str]:
    return [f"{file.path.name}: {note}" for note in notes]


def _object(line: str, encoding: Encoding) -> dict[str, Any]:
    _refuse_long(len(line))
    # Half an emoji is valid JSON, but no text; a byte that is no UTF-8 stands in the line as such a half.
    encodes = not encoding.damaged and not ("\\u" in line and _HALF.search(line))
    return _sound(_loads(line), line.count("[") + line.count("{") > DEEPEST, encodes)


def _sound(value: Any, deep: bool, encodes: bool) -> dict[str, Any]:
    """The value, an object that can be a row; `deep` and `encodes` say what it may be and what it certainly does."""
    if not isinstance(value, dict):
        raise ValueError(f"found {_kind(value)}")
    if deep and _depth(value) > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if not encodes:
        _refuse_long(len(json.dumps(value, ensure_ascii=False).encode()))
    return value


def _refuse_long(length: int) -> None:
    if length > LONGEST:
        raise ValueError(f"{length:,} characters, of {LONGEST:,} at most")


def _depth(value: dict[str, Any] | list[Any]) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max((_depth(item) for item in inner if isinstance(item, (dict, list))), default=0)


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once, parse_constant=_constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):  # the last one would win, and nobody would know
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'key "{twice}" stands twice in one object')
    return value


def _constant(name: str) -> None:
    """NaN is how pandas writes a missing value; infinity is no JSON."""
    if name != "NaN":
        raise ValueError(f"{name} is no JSON")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        escaped = "\udc80" <= error.object[error.start] <= "\udcff"
        return _NO_TEXT if escaped else "half of a surrogate pair, which is no text"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _delimited(file: File, options: Options) -> Read:
    """Every field as text. A row of another width than the header's, or with a quote that is not closed, is a fault."""
    encoding = encoding_of(file, options.encoding)
    with file.text(encoding) as text:
        lines, hint = delimited.without_hint(list(text))
    default = "\t" if file.suffix == ".tsv" else ","
    with delimited.long_fields():
        delimiter = options.delimiter or hint or delimited.delimiter_of(lines, default)
        header = delimited.header(lines, delimiter)
        if header is None:
            return Read(pl.DataFrame(), [])
        if header.fault:
            raise UserError(f"data.source {file.path} line {header.first + 1}: {header.fault}", "a header of names")
        read = _records(file, options, encoding, delimited.Lines(lines, header, delimiter))
    found = told(file, encoding, "" if delimiter in (default, options.delimiter) else delimiter)
    return replace(read, notes=[*found, *_of(file, read.notes)])


def _records(file: File, options: Options, encoding: Encoding, lines: delimited.Lines) -> Read:
    faults, rows, positions, swallowed = Faults(file, options), [], [], []
    for number, record in enumerate(lines.records(), start=1):
        fault = record.fault or (_NO_TEXT if encoding.damaged and not _encodes(record.values) else "")
        if fault:
            faults.add(number, f"line {record.first + 1}: {fault}")
            continue
        rows.append(record.values)
        positions.append(number)
        if lines.swallowed(record):
            swallowed.append(f"{record.first + 1}")
    names, notes = frames.named(lines.header.values)
    if swallowed:
        note = "quoted fields hold lines that look like rows of their own; a quote may be missing in line"
        notes.append(f"{note} {listed(swallowed, 5)}")
    return Read(_by_column(names, rows), positions, faults.found, notes)


def _by_column(names: list[str], rows: Sequence[Sequence[str | None]]) -> pl.DataFrame:
    values = list(zip(*rows, strict=True)) or [()] * len(names)
    return pl.DataFrame([pl.Series(name, column, dtype=pl.String) for name, column in zip(names, values, strict=True)])


def _encodes(values: list[str]) -> bool:
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(file: File, _: Options) -> Read:
    """By Arrow: polars' own reader panics over a damaged file, and prints where."""
    with file.open() as opened:
        try:
            parquet = pyarrow.parquet.ParquetFile(io.BytesIO(opened.read()) if file.packing else opened)
            _refuse_repeated(file, parquet.metadata)
            table = parquet.read().replace_schema_metadata()
            table.validate(full=True)
        except pyarrow.ArrowException as error:
            raise OSError(str(error)) from None
    return Read(pl.DataFrame(table), range(1, table.num_rows + 1))


def _refuse_repeated(file: File, about: pyarrow.parquet.FileMetaData) -> None:
    """A value that is there a billion times takes some bytes of a Parquet file and 16 GB of a table."""
    size = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    unpacked = max(size, CELL * about.num_rows * about.num_columns)
    refuse_bomb(file.path, file.path.stat().st_size, unpacked)


def _refuse_packed_bomb(file: File, data: bytes) -> None:
    """What the parts of a workbook say of their sizes is counted, and then held against what they hold."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            refuse_bomb(file.path, len(data), sum(part.file_size for part in packed.infolist()))
            damaged = packed.testzip()
    except UserError:
        raise
    except _NO_ZIP as error:
        raise zipfile.BadZipFile(str(error)) from None
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} is damaged")


def _xlsx(file: File, _: Options) -> Read:
    """The first sheet, every cell as text; its first row that is not blank is the header."""
    try:
        import fastexcel
    except ImportError:
        raise UserError(
            f"data.source {file.path}: reading .xlsx needs fastexcel", fix="pip install fastexcel"
        ) from None
    with file.open() as opened:
        data = opened.read()
    _refuse_packed_bomb(file, data)
    try:
        book = fastexcel.read_excel(data)
        cells = book.load_sheet(0, header_row=None, dtypes="string").to_polars()
    except fastexcel.FastExcelError as error:
        raise _unreadable(file, error) from None
    filled = [(number, row) for number, row in enumerate(cells.rows()) if any(value is not None for value in row)]
    if not filled:
        return Read(pl.DataFrame(), [])
    (first, header), *rows = filled
    names, notes = frames.named(header)
    if len(book.sheet_names) > 1:
        notes.append(f"the sheet {book.sheet_names[0]} alone is read, of {listed(book.sheet_names)}")
    return Read(
        _by_column(names, [row for _, row in rows]), [number - first for number, _ in rows], notes=_of(file, notes)
    )


def _text(file: File, options: Options) -> Read:
    """One row a file: its text, and its name as the source."""
    encoding = encoding_of(file, options.encoding)
    with file.text(encoding, None) as opened:
        text = opened.read()
    fault = f"{len(text):,} characters, of {LONGEST:,} at most" if len(text) > LONGEST else ""
    fault = _NO_TEXT if encoding.damaged else fault
    if fault:
        faults = Faults(file, options)
        faults.add(1, f"row 1: {fault}")
        return Read(pl.DataFrame(), [], faults.found)
    return Read(pl.DataFrame({"text": [text], "source": [file.path.name]}), [1], notes=told(file, encoding))


_READERS: dict[str, Callable[[File, Options], Read]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _delimited,
    ".tsv": _delimited,
    ".parquet": _parquet,
    ".xlsx": _xlsx,
    **dict.fromkeys(TEXTS, _text),
}
FORMATS = tuple(_READERS)
