"""Packed files: none is unpacked onto the disk, and none can fill the memory by far more than its own size."""

from __future__ import annotations

import ast
import gzip
import io
import os
import struct
import zipfile
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from residency.data import files, readers, sources
from residency.data.readers import Options
from residency.errors import UserError
from residency.recipe import DataSection

SOURCE = Path(__file__).parents[2] / "src" / "residency"
SMALL = 1 << 20


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BOMB_BYTES", SMALL)


def workbook(part: bytes) -> bytes:
    """A zip archive with one part, packed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/worksheets/sheet1.xml", part)
    return buffer.getvalue()


def test_a_bomb_is_refused_in_every_packing(tmp_path: Path) -> None:
    much = b"a" * (4 * SMALL)
    zst = pa.compress(much, codec="zstd", asbytes=True)
    for name, content in (("a.csv.gz", gzip.compress(much)), ("a.txt.zst", zst), ("a.xlsx", workbook(much))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="unpack to more than"):
            readers.read(tmp_path / name, Options())


def test_a_workbook_that_lies_about_its_size_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = workbook(b"a" * (4 * SMALL))
    lying = content.replace(struct.pack("<I", 4 * SMALL), struct.pack("<I", 10))
    assert lying != content
    (tmp_path / "a.xlsx").write_bytes(lying)
    monkeypatch.setattr("fastexcel.read_excel", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UserError, match="not a readable xlsx file"):
        readers.read(tmp_path / "a.xlsx", Options())


def test_a_parquet_file_of_one_value_a_million_times_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"question": ["a"] * 1_000_000, "answer": ["b"] * 1_000_000}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    monkeypatch.setattr(pl, "read_parquet", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UserError, match="unpack to more than"):
        readers.read(tmp_path / "a.parquet", Options())


def test_an_honest_file_is_read_from_every_packing(tmp_path: Path) -> None:
    rows = pl.DataFrame({"question": [f"Why {n}?" for n in range(2000)], "answer": [f"So {n}." for n in range(2000)]})
    rows.write_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(rows.write_csv().encode()))
    for name in ("a.parquet", "a.csv.gz"):
        assert readers.read(tmp_path / name, Options()).rows.height == 2000


def test_nothing_unpacks_an_archive_onto_the_disk_but_one_named_file_of_a_checked_wheel() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not {"tarfile", "unpack_archive"} & names, path
            unpacks = isinstance(node, ast.Attribute) and node.attr in ("extract", "extractall", "unpack_archive")
            if unpacks and not ast.unparse(node.value).endswith(".str"):  # polars' texts have an `extract` as well
                found.append((path.name, node.attr))
    assert found == [("models.py", "extract")]


def test_a_link_in_a_data_folder_is_named_before_its_target_is_learnt(tmp_path: Path) -> None:
    secret, folder = tmp_path / "elsewhere" / "diary.txt", tmp_path / "data"
    secret.parent.mkdir()
    folder.mkdir()
    secret.write_text("Dear diary, this is nobody's business but my own.")
    (folder / "a.txt").write_text("A text that belongs here.")
    (folder / "same.txt").symlink_to(folder / "a.txt")
    assert sources.load(DataSection(source=str(folder))).notes == []
    (folder / "b.txt").symlink_to(secret)
    (note,) = sources.load(DataSection(source=str(folder))).notes
    assert "b.txt" in note and os.path.realpath(secret) in note


def test_a_device_or_a_pipe_is_no_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    for source in (tmp_path / "a.jsonl", Path("/dev/zero")):
        with pytest.raises(UserError, match="no such file"):
            sources.load(DataSection(source=str(source)))
