from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import dialogues, write_jsonl
from residency.data import sources
from residency.errors import UserError
from residency.recipe import DataSection

COLUMNS = ["Description", "Patient", "Doctor"]


def load(source: Path | str, **settings: Any) -> sources.Table:
    return sources.load(DataSection(source=str(source), **settings))


def refused(source: Path | str, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        load(source, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


WRITERS: dict[str, Callable[[Path, list[dict[str, str]]], Any]] = {
    "rows.jsonl": write_jsonl,
    "rows.ndjson": write_jsonl,
    "rows.json": lambda path, rows: path.write_text(json.dumps(rows), "utf-8"),
    "columns.json": lambda path, rows: path.write_text(
        json.dumps(pl.DataFrame(rows).to_dict(as_series=False)), "utf-8"
    ),
    "rows.csv": lambda path, rows: pl.DataFrame(rows).write_csv(path),
    "rows.tsv": lambda path, rows: pl.DataFrame(rows).write_csv(path, separator="\t"),
    "rows.parquet": lambda path, rows: pl.DataFrame(rows).write_parquet(path),
    "ROWS.CSV": lambda path, rows: pl.DataFrame(rows).write_csv(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    rows = dialogues(7)
    rows[3]["Doctor"] = 'Commas, "quotes",\ttabs and é.\nAnd a second line.'
    WRITERS[name](tmp_path / name, rows)
    table = load(tmp_path / name)
    assert table.rows.select(COLUMNS).to_dicts() == rows
    assert table.rows["row"].to_list() == [1, 2, 3, 4, 5, 6, 7]
    assert table.unreadable == []


def test_a_glob_joins_files_of_different_formats_and_numbers_their_rows_through(tmp_path: Path) -> None:
    rows = dialogues(6)
    write_jsonl(tmp_path / "a.jsonl", rows[:2])
    (tmp_path / "deep").mkdir()
    pl.DataFrame(rows[2:4]).write_csv(tmp_path / "deep" / "b.csv")
    pl.DataFrame(rows[4:]).write_parquet(tmp_path / "deep" / "c.parquet")
    table = load(tmp_path / "**" / "*.*")
    assert table.rows.select(COLUMNS).to_dicts() == rows
    assert table.rows["row"].to_list() == [1, 2, 3, 4, 5, 6]


def test_a_glob_takes_a_column_that_only_some_files_have(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "1.jsonl", [{"text": "one"}])
    write_jsonl(tmp_path / "2.jsonl", [{"text": "two", "source": "wiki"}])
    assert load(tmp_path / "*.jsonl").rows["source"].to_list() == [None, "wiki"]


def test_a_faulty_row_in_a_glob_is_named_with_its_own_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "1.jsonl", dialogues(2))
    bad = put(tmp_path / "2.jsonl", '{"a": 1}\n{"a": \n')
    assert f"{bad} line 2" in refused(tmp_path / "*.jsonl")
    table = load(tmp_path / "*.jsonl", on_error="skip")
    [(row, why)] = table.unreadable
    assert row not in table.rows["row"]
    assert table.where(row) == f"{bad} line 2"
    assert str(bad) in why


def test_a_folder_in_a_hub_data_sets_layout_is_read_by_its_splits(tmp_path: Path, own_cache: None) -> None:
    rows, folder = dialogues(5), tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    pl.DataFrame(rows[:3]).write_parquet(folder / "train-00000-of-00001.parquet")
    pl.DataFrame(rows[3:]).write_parquet(folder / "test-00000-of-00001.parquet")
    assert load(tmp_path / "set").rows.select(COLUMNS).to_dicts() == rows[:3]
    assert load(tmp_path / "set", hub_split="test").rows.select(COLUMNS).to_dicts() == rows[3:]
    message = refused(tmp_path / "set", hub_split="validation")
    assert "train" in message
    assert "test" in message


def test_a_folder_that_is_no_data_set_is_the_users_error(tmp_path: Path, own_cache: None) -> None:
    put(tmp_path / "broken" / "train.jsonl", '{"a": 1}\nnope\n')
    (tmp_path / "bare").mkdir()
    assert "JSON parse error" in refused(tmp_path / "broken")
    assert "any data files" in refused(tmp_path / "bare")


def test_reading_a_data_set_leaves_its_librarys_progress_bars_as_they_were(tmp_path: Path, own_cache: None) -> None:
    import datasets

    put(tmp_path / "set" / "train.jsonl", '{"a": "x"}\n')
    before = datasets.is_progress_bar_enabled()
    load(tmp_path / "set")
    assert datasets.is_progress_bar_enabled() == before


def test_an_unreachable_hub_id_says_that_neither_file_nor_hub_has_it() -> None:
    message = refused("nobody/nothing-of-the-kind")
    assert "nobody/nothing-of-the-kind: no such local file, and the hub does not give it" in message
    assert "connection" in message


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("cut.jsonl", '{"a": "x"}\n\n{"a": \n{"a": "y"}\n', 3),
        ("list.jsonl", '{"a": "x"}\n\n["x"]\n{"a": "y"}\n', 3),
        ("bytes.jsonl", b'{"a": "x"}\n\n{"a": "\xff"}\n{"a": "y"}\n', 3),
        ("half_an_emoji.jsonl", '{"a": "x"}\n\n{"a": "\\uD83D"}\n{"a": "y"}\n', 3),
        ("deep.jsonl", '{"a": "x"}\n\n' + "[" * 100_000 + '\n{"a": "y"}\n', 3),
        ("long.csv", "a,b\nx,1\ny,2,3\ny,1\n", 3),
        ("short.csv", "a,b\nx,1\ny\ny,1\n", 3),
        ("short.tsv", "a\tb\nx\t1\ny\ny\t1\n", 3),
        ("wrapped.csv", 'a,b\nx,"1\n2"\ny\ny,1\n', 4),
    ],
)
def test_a_faulty_row_stops_with_file_and_line_or_is_skipped_and_kept_count_of(
    name: str, content: str | bytes, line: int, tmp_path: Path
) -> None:
    file = put(tmp_path / name, content)
    message = refused(file)
    assert f"{file} line {line}: " in message
    assert "data.on_error: skip" in message
    table = load(file, on_error="skip")
    assert table.rows["a"].to_list() == ["x", "y"]
    [(_, why)] = table.unreadable
    assert why.startswith(f"line {line}: ")


def test_an_emoji_that_is_whole_is_no_fault(tmp_path: Path) -> None:
    assert load(put(tmp_path / "a.jsonl", '{"a": "\\ud83d\\ude00"}\n')).rows["a"].to_list() == ["😀"]


def test_a_row_of_jsonl_keeps_the_number_of_its_line(tmp_path: Path) -> None:
    file = put(tmp_path / "a.jsonl", '\n{"a": 1}\n\n  \nnope\n{"a": 2}\n')
    assert load(file, on_error="skip").rows["row"].to_list() == [2, 6]


def test_fields_that_are_empty_are_not_rows_that_are_short(tmp_path: Path) -> None:
    table = load(put(tmp_path / "a.csv", 'a,b\nx,\n,y\n"",""\n'))
    assert table.rows.height == 3
    assert table.rows["a"].fill_null("").to_list() == ["x", "", ""]
    assert table.rows["b"].fill_null("").to_list() == ["", "y", ""]


def test_numbers_in_a_csv_stay_the_text_that_they_were(tmp_path: Path) -> None:
    assert load(put(tmp_path / "a.csv", "a,b\n007,1.50\n")).rows.row(0) == (1, "007", "1.50")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(name: str, tmp_path: Path) -> None:
    content = '{"a": "x", "b": "y"}\n' if name.endswith("l") else "a,b\nx,y\nz,\n"
    assert "a" in load(put(tmp_path / name, b"\xef\xbb\xbf" + content.encode())).rows.columns


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n \n"),
        ("a.json", "[]"),
        ("a.json", "{}"),
        ("a.csv", ""),
        ("a.csv", "\n"),
        ("a.csv", "a,b\n"),
        ("a.csv", b"\xef\xbb\xbf"),
        ("a.parquet", ""),
    ],
)
def test_a_source_without_rows_is_refused(name: str, content: str | bytes, tmp_path: Path) -> None:
    file = put(tmp_path / name, content)
    message = refused(file)
    assert str(file) in message
    assert "expected at least one row" in message


def test_a_source_of_faulty_rows_alone_is_refused_with_the_first_fault(tmp_path: Path) -> None:
    message = refused(put(tmp_path / "a.jsonl", "\nnope\n[1]\n"), on_error="skip")
    assert "none of its 2 rows can be read" in message
    assert "line 2" in message


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.json", "[{", "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", "3", "expected an array of objects"),
        ("a.json", '[{"a": 1}, 3]', "item 2: int"),
        ("a.json", '{"a": [1, 2], "b": [1]}', "height"),
        ("a.json", '{"a": [1, "x"]}', "value"),
        ("a.json", '[{"a": "\\ud83d"}]', "surrogates"),
        ("a.json", '[{"a": [1]}, {"a": {"b": 1}}]', "supertype"),
        ("a.jsonl", '{"a": [1]}\n{"a": {"b": 1}}\n', "values of different kinds"),
        ("a.jsonl", '{"a": ' + "9" * 60 + "}\n", "too large"),
        ("a.csv", "a,b\ncaf\xe9,1\n".encode("latin-1"), "decode"),
        ("a.csv", "a,b\n1,2,3\n" + "x" * 140_000 + ",1\n", "field"),
        ("a.parquet", "no parquet", "not a readable parquet file"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(name: str, content: str | bytes, found: str, tmp_path: Path) -> None:
    file = put(tmp_path / name, content)
    message = refused(file, on_error="skip")
    assert str(file) in message
    assert found in message


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    message = refused(put(tmp_path / "a.docx", "x"))
    assert ".docx" in message
    assert all(suffix in message for suffix in sources.FORMATS)


def test_a_misspelt_source_names_the_nearest_one(tmp_path: Path) -> None:
    put(tmp_path / "tickets.jsonl", "{}")
    assert 'did you mean "tickets.jsonl"?' in refused(tmp_path / "ticket.jsonl")
    assert 'did you mean "clinic"?' in refused("clinc")
    assert "no such file" in refused(tmp_path / "*.csv")


def test_a_column_called_row_is_kept_under_another_name(tmp_path: Path) -> None:
    pl.DataFrame({"row": [70, 80], "text": ["x", "y"]}).write_parquet(tmp_path / "a.parquet")
    rows = load(tmp_path / "a.parquet").rows
    assert rows["row"].to_list() == [1, 2]
    assert rows["row_in_source"].to_list() == [70, 80]


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=20)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"a": FIELD, "b": FIELD}), min_size=1, max_size=6))
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
def test_any_text_comes_back_as_it_was_written(
    name: str, rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    WRITERS[f"rows.{path.suffix[1:]}"](path, rows)
    table = load(path)
    assert table.rows.select(pl.col("a", "b").fill_null("")).to_dicts() == rows
    assert table.rows["row"].to_list() == list(range(1, len(rows) + 1))
