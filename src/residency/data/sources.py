"""Where rows come from: local files, folders and globs, hub data sets, the built-in clinic, or Python itself."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import polars as pl

from residency import hub
from residency.data import frames, privacy, readers
from residency.data.files import File
from residency.data.readers import FORMATS, Options, Read
from residency.errors import UserError, listed, nearest, reason_of
from residency.recipe import DataSection
from residency.workspace import sha256

BUILT_IN = ("clinic",)
GIVEN = "data given from Python"
# What the datasets library reads, and what makes a folder one of its data sets.
DATASETS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
OWN_ROW = "row_in_source"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Part:
    """One file of a source: its name, the number of the row before its first, and what its positions count."""

    name: str
    before: int
    unit: Literal["line", "row"]


@dataclass(frozen=True)
class Table:
    """Rows as they were read, all columns, and the rows that could not be read.

    `rows` has a column `row`, unique over all files: the position in the source counted from 1 (for JSONL, the line);
    over several files it counts on. `notes` are lines that the user should see. `inputs` holds the sha256 of each
    local file that was read.
    """

    rows: pl.DataFrame
    name: str
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    def where(self, row: int) -> str:
        """The file and position that a row number stands for: `rows.jsonl line 7` or `rows.csv row 7`."""
        place = bisect.bisect_left(self.parts, row, key=lambda part: part.before) - 1
        part = self.parts[max(place, 0)]
        return f"{part.name} {part.unit} {row - part.before}"


def load(section: DataSection, given: Any = None) -> Table:
    """Read the rows of a recipe's source, or take those given: a pandas or polars data frame or a datasets.Dataset.

    Raises:
        UserError: the source is missing, unreachable, empty or of an unknown format, or a row (or every row) can't be
            read.
    """
    table = _table(GIVEN, [(GIVEN, _given(given, section))]) if given is not None else _load(section)
    if table.rows.is_empty():
        bad = table.unreadable
        why = (
            f"none of its {len(bad)} rows can be read (the first: {privacy.redacted(bad[0][1])})"
            if bad
            else _no_rows(table)
        )
        raise UserError(f"data.source {table.name}: {why}", "at least one row")
    return table


def _no_rows(table: Table) -> str:
    return f"holds no rows{f' ({table.notes[0]})' if table.notes else ''}"


def inputs(section: DataSection) -> dict[str, str] | None:
    """The sha256 of each local file that a source is read from; None for a hub data set, which has none."""
    folder = _path(section.source)
    # A README says which files of a data set belong to which split, so that it counts as well.
    files = _visible(folder.rglob("*"), folder) if folder.is_dir() else [path for _, path in _files(section)]
    return {path.name if len(files) == 1 else str(path): sha256(path) for path in files} or None


def _load(section: DataSection) -> Table:
    source = section.source
    path = _path(source)
    files = _files(section)
    hashes = inputs(section) or {}
    links = _leading_out(path, [file for _, file in files])
    if path.is_dir() and any(File.of(file).suffix in DATASETS for _, file in files):
        read = _hub(str(path), section)
        return _table(source, [(source, replace(read, notes=[*read.notes, *links]))], hashes)
    if files:
        reads = [(name, readers.read(file, _options(section))) for name, file in files]
        if path.is_dir():
            reads = [_named_by_folder(name, read, path) for name, read in reads]
        table = _table(source, reads, hashes)
        return replace(table, notes=[*table.notes, *links])
    if path.is_dir():
        raise UserError(f"data.source {source}: the folder holds no data files", f"files such as {listed(FORMATS)}")
    if _HUB_ID.fullmatch(source) and File.of(path).suffix not in FORMATS:
        return _table(source, [(source, _hub(source, section))])
    near = nearest(source, BUILT_IN) or nearest(path.name, _neighbours(path))
    raise UserError(
        f"data.source {source}: no such file", f"a file, folder, glob, hub id, or built in: {listed(BUILT_IN)}", near
    )


def _options(section: DataSection) -> Options:
    delimiter = "\t" if section.delimiter == "tab" else section.delimiter
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UserError(f"data.delimiter is {section.delimiter!r}", "one character that is no quote, or tab")
    return Options(section.on_error, delimiter, section.encoding)


def _path(source: str) -> Path:
    try:
        path = Path(source).expanduser()
        path.exists()
    except RuntimeError:  # a user's home that there is not
        return Path(source)
    except OSError as error:
        raise UserError(f"data.source {source[:200]}: can't be looked up ({error.strerror})") from None
    return path


def _files(section: DataSection) -> list[tuple[str, Path]]:
    """The local files of a source in the order that they are read, each with the name that messages give it."""
    source, path = section.source, _path(section.source)
    if source in BUILT_IN:
        return [(source, Path(str(resources.files("residency") / "assets" / f"{source}.jsonl")))]
    if path.is_file():
        return [(source, path)]
    if path.is_dir():
        inside = _visible(path.rglob("*"), path)
        data = [file for file in inside if File.of(file).suffix in DATASETS]
        # A README beside a data set is none of its data; of a folder without data sets, every file that can be read is.
        chosen = data or [file for file in inside if File.of(file).suffix in FORMATS]
        return [(str(file), file) for file in chosen]
    return [(str(file), file) for file in _globbed(path)]


def _globbed(path: Path) -> list[Path]:
    """The files that a pattern fits, each once whatever links lead to it."""
    base = _base(path)
    if base is None:
        return []
    try:
        return _visible(base.glob(str(Path(*path.parts[len(base.parts) :]))), base)
    except (ValueError, OSError) as error:
        raise UserError(f"data.source {path}: no pattern for files ({error})", "for example data/**/*.jsonl") from None


def _base(pattern: Path) -> Path | None:
    """The folder that a pattern starts from; None where it is no pattern."""
    first = next((place for place, part in enumerate(pattern.parts) if any(c in part for c in "*?[")), None)
    return None if first is None else Path(*pattern.parts[:first])


def _leading_out(path: Path, files: Sequence[Path]) -> list[str]:
    """A note on links in a folder, or among the files of a pattern, that lead out of it: somebody else may have
    planted them, to have a file learnt and published that does not belong to the data."""
    base = path if path.is_dir() else _base(path)
    if base is None:
        return []
    home = base.resolve()
    out = [f"{file} → {file.resolve()}" for file in files if home not in file.resolve().parents]
    return [f"links lead out of {base}, and what they lead to is read: {listed(out, 3)}"] if out else []


def _visible(found: Iterable[Path], base: Path) -> list[Path]:
    """The files among paths, sorted and each once, without hidden ones."""
    files: dict[Path, Path] = {}
    for path in sorted(found):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(base).parts):
            files.setdefault(path.resolve(), path)
    return list(files.values())


def _neighbours(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []


def _named_by_folder(name: str, read: Read, folder: Path) -> tuple[str, Read]:
    """Texts of a folder have their path in it as their source, since two may have one name."""
    if File.of(Path(name)).suffix not in readers.TEXTS or read.rows.is_empty():
        return name, read
    inside = Path(name).relative_to(folder).as_posix()
    return name, replace(read, rows=read.rows.with_columns(source=pl.lit(inside)))


def _table(name: str, reads: Sequence[tuple[str, Read]], hashes: dict[str, str] | None = None) -> Table:
    """Files as one table, numbered through."""
    parts, numbered, unreadable, notes, before = [], [], [], [], 0
    for file, read in reads:
        parts.append(Part(file, before, read.unit))
        rows, renamed = _with_own_row_aside(read.rows)
        numbers = pl.Series("row", read.positions, dtype=pl.UInt32) + before
        numbered.append(pl.DataFrame([numbers.cast(pl.UInt32), *rows.get_columns()]))
        prefix = f"{file}: " if len(reads) > 1 else ""
        unreadable += [(before + position, prefix + why) for position, why in read.unreadable]
        notes += [*read.notes, *([f"{Path(file).name}: {renamed}"] if renamed else [])]
        before += max([*read.positions[-1:], *(position for position, _ in read.unreadable[-1:])], default=0)
    notes = [
        privacy.redacted_names(note) for note in notes
    ]  # they name columns: of a file without a header its first row
    return Table(frames.joined(numbered), name, unreadable, notes, hashes or {}, tuple(parts))


def _with_own_row_aside(rows: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """The rows with a user's own column `row` under another name, and a note on it."""
    if "row" not in rows.columns:
        return rows, ""
    other = frames.named([*(name for name in rows.columns if name != "row"), OWN_ROW])[0][-1]
    return rows.rename({"row": other}), f'the column "row" is kept as "{other}"'


def _given(given: Any, section: DataSection) -> Read:
    """Rows that a Python program hands in. No library is imported that the program has not imported itself."""
    room = type(given).__module__.partition(".")[0]
    take = {"polars": _from_polars, "pandas": _from_pandas, "datasets": _from_datasets}.get(room)
    if isinstance(given, list) and all(isinstance(record, dict) for record in given):
        take = _from_records
    if take is None:
        raise UserError(
            f"{GIVEN}: is {room}.{type(given).__name__}",
            "a pandas or polars DataFrame, a datasets.Dataset or a list of dicts",
        )
    try:
        return take(given, section)
    except (*frames.UNBUILT, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{GIVEN}: can't be read as a table ({reason_of(error, 160)})", "a data frame of rows"
        ) from None


def _from_polars(given: Any, _: DataSection) -> Read:
    rows: pl.DataFrame = given.collect() if isinstance(given, pl.LazyFrame) else given
    return Read(rows, range(1, rows.height + 1))


def _from_pandas(given: Any, _: DataSection) -> Read:
    names, notes = frames.named([str(name) for name in given.columns])
    given = given.set_axis(names, axis=1)
    try:
        return Read(pl.from_pandas(given), range(1, len(given) + 1), notes=notes)
    except (*frames.UNBUILT, ValueError):  # a column of several kinds
        values = {name: [None if _missing(value) else value for value in given[name].tolist()] for name in names}
    rows, mixed = frames.columns(values)
    return Read(rows, range(1, rows.height + 1), notes=[*notes, *mixed])


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)  # noqa: PLR0124


def _from_datasets(given: Any, section: DataSection) -> Read:
    import datasets

    if isinstance(given, dict):
        if section.hub_split not in given:
            raise UserError(f"{GIVEN}: has no split {section.hub_split}", f"data.hub_split one of {listed(given)}")
        given = given[section.hub_split]
    if isinstance(given, datasets.IterableDataset):
        return _first_rows(given, section)
    rows = given.to_polars()
    return Read(rows, range(1, rows.height + 1))


def _from_records(given: Any, _: DataSection) -> Read:
    rows, notes = frames.table(list(given))
    return Read(rows, range(1, rows.height + 1), notes=notes)


def _first_rows(stream: Iterable[dict[str, Any]], section: DataSection) -> Read:
    """As many rows of a stream as the recipe asks for: its first ones, since a stream has no others at hand."""
    if section.rows is None:
        raise UserError("data.streaming: without data.rows the whole stream would be read", "a number as data.rows")
    rows, notes = frames.table(list(islice(stream, section.rows)))
    if section.take == "random":
        notes.append(f"the first {rows.height:,} rows of a stream are taken: data.take random would read all of it")
    return Read(rows, range(1, rows.height + 1), notes=notes)


def _hub(source: str, section: DataSection) -> Read:
    import datasets

    try:
        with _no_bars():
            if not _path(source).is_dir() and not hub.offline():
                hub.reached(source, "dataset", section.revision)
            loaded = datasets.load_dataset(
                source,
                name=section.config,
                split=section.hub_split,
                revision=section.revision,
                streaming=section.streaming,
            )
            return _from_datasets(loaded, section)
    except Exception as error:
        if isinstance(error, UserError) or not _of_the_hub(error):
            raise
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        if _path(source).is_dir():
            raise UserError(f"data.source {source}: can't be read as a data set ({reason})") from None
        raise UserError(
            f"data.source {source}: no such local file, and the hub does not give it ({reason})",
            "a hub data set that can be reached, or a local file",
            "check the name, data.config, data.hub_split and the connection",
        ) from None


def _of_the_hub(error: Exception) -> bool:
    """Whether an error is one of the data set, the hub or the way there; the hub's HTTP client has had three names."""
    from datasets.exceptions import DatasetsError

    known = (DatasetsError, OSError, ValueError, RuntimeError)
    return isinstance(error, known) or type(error).__module__.startswith(("httpx", "requests"))


@contextmanager
def _no_bars() -> Iterator[None]:
    import datasets

    before = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if before:
            datasets.enable_progress_bars()
