from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_readers import workbook

from conftest import dialogues, write_jsonl
from residency.data import readers, sources
from residency.errors import UserError
from residency.recipe import DataSection
from residency.workspace import sha256

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


def zstd(text: str) -> bytes:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(text.encode())
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


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
    "rows.csv.gz": lambda path, rows: path.write_bytes(gzip.compress(pl.DataFrame(rows).write_csv().encode())),
    "rows.jsonl.zst": lambda path, rows: path.write_bytes(zstd("".join(json.dumps(row) + "\n" for row in rows))),
    "rows.xlsx": lambda path, rows: path.write_bytes(
        workbook({"Rows": [list(rows[0]), *(list(row.values()) for row in rows)]})
    ),
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
    assert "the folder holds no data files" in refused(tmp_path / "bare")


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
        ("bytes.jsonl", b'{"a": "x"}\n\n{"a": "\xc3\xa9\xff"}\n{"a": "y"}\n', 3),
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
        ("a.json", "[" * 100_000, "not valid JSON (nested too deeply)"),
        ("a.json", "3", "expected an array of objects"),
        ("a.json", '{"a": [1, 2], "b": [1]}', "arrays of different lengths (a 2, b 1)"),
        ("a.csv", '"a,b\n1,2\n', "line 1: a quote that is not closed; expected a header"),
        ("a.parquet", "no parquet", "not a readable parquet file"),
        ("a.xlsx", "no workbook", "not a readable xlsx file"),
        ("a.jsonl.zst", "no frame", "not a readable jsonl.zst file"),
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
    assert all(suffix in message for suffix in readers.FORMATS)


def test_a_misspelt_source_names_the_nearest_one(tmp_path: Path) -> None:
    put(tmp_path / "tickets.jsonl", "{}")
    assert 'did you mean "tickets.jsonl"?' in refused(tmp_path / "ticket.jsonl")
    assert 'did you mean "clinic"?' in refused("clinc")
    assert "no such file" in refused(tmp_path / "*.csv")


@pytest.mark.parametrize("name", WRITERS)
def test_a_column_called_row_is_kept_under_another_name_in_every_format(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, [{"row": "70", "text": "x"}, {"row": "80", "text": "y"}])
    table = load(tmp_path / name)
    assert table.rows["row"].to_list() == [1, 2]
    assert table.rows["row"].dtype == pl.UInt32
    assert table.rows["row_in_source"].to_list() == ["70", "80"]
    assert table.notes == [f'{name}: the column "row" is kept as "row_in_source"']


def test_a_column_called_row_in_source_is_not_overwritten_by_one_called_row(tmp_path: Path) -> None:
    rows = load(write_jsonl(tmp_path / "a.jsonl", [{"row": 5, "row_in_source": 6}])).rows
    assert rows.to_dicts() == [{"row": 1, "row_in_source_2": 5, "row_in_source": 6}]


def test_a_table_says_where_each_row_stands_whatever_the_format(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", '\n{"text": "x"}\n\n{"text": "y"}\n')
    put(tmp_path / "b.csv", 'text\n"1\n2"\ny\n')
    put(tmp_path / "c.md", "# z")
    put(tmp_path / "d.jsonl", "")
    pl.DataFrame({"text": ["p", "q"]}).write_parquet(tmp_path / "e.parquet")
    table = load(tmp_path / "*.*")
    assert table.rows["row"].is_unique().all()
    found = [(Path(table.where(row)).name, text) for row, text in table.rows.select("row", "text").iter_rows()]
    assert found == [
        ("a.jsonl line 2", "x"),
        ("a.jsonl line 4", "y"),
        ("b.csv row 1", "1\n2"),
        ("b.csv row 2", "y"),
        ("c.md row 1", "# z"),
        ("e.parquet row 1", "p"),
        ("e.parquet row 2", "q"),
    ]
    assert table.notes == ["d.jsonl: the file is empty"]
    assert load("clinic").where(7) == "clinic line 7"


def test_columns_of_different_kinds_in_different_files_become_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "1.jsonl", [{"a": 1, "b": [1]}])
    write_jsonl(tmp_path / "2.jsonl", [{"a": "x", "b": {"c": 2}}])
    rows = load(tmp_path / "*.jsonl").rows
    assert rows["a"].to_list() == ["1", "x"]
    assert rows["b"].to_list() == ["[1]", '{"c": 2}']


def test_a_folder_of_texts_is_a_row_a_file_with_its_path_as_the_source(tmp_path: Path) -> None:
    put(tmp_path / "b.txt", "Second.\r\nLine.")
    put(tmp_path / "a" / "one.md", "# First")
    put(tmp_path / "a" / "one.txt.gz", gzip.compress("Café".encode("cp1252")))
    put(tmp_path / ".hidden.txt", "no")
    put(tmp_path / "picture.png", b"\x89PNG")
    table = load(tmp_path)
    assert table.rows.to_dicts() == [
        {"row": 1, "text": "# First", "source": "a/one.md"},
        {"row": 2, "text": "Café", "source": "a/one.txt.gz"},
        {"row": 3, "text": "Second.\nLine.", "source": "b.txt"},
    ]
    assert table.notes == ["one.txt.gz read as cp1252"]
    assert table.where(3) == f"{tmp_path / 'b.txt'} row 1"


def test_a_pattern_takes_each_file_once_in_sorted_order_and_no_hidden_ones(tmp_path: Path) -> None:
    for name in ("b", "a", ".c"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name}])
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a2.jsonl").symlink_to(tmp_path / "b.jsonl")
    (tmp_path / "d.jsonl").mkdir()
    assert load(tmp_path / "**" / "*.jsonl").rows["text"].to_list() == ["a", "b"]


def test_the_inputs_are_the_local_files_with_their_hashes(tmp_path: Path, own_cache: None) -> None:
    folder = tmp_path / "set"
    one, two = (put(folder / name, f'{{"text": "{name}"}}\n') for name in ("a.jsonl", "b.jsonl"))
    assert load(one).inputs == {"a.jsonl": sha256(one)}
    assert load(folder / "*.jsonl").inputs == {str(one): sha256(one), str(two): sha256(two)}
    assert list(load("clinic").inputs) == ["clinic.jsonl"]
    readme = put(folder / "README.md", "# A data set")  # its head can say which files are which split
    assert load(folder).inputs == {str(path): sha256(path) for path in (readme, one, two)}
    assert load(folder).inputs == sources.inputs(DataSection(source=str(folder)))


def test_a_note_says_what_was_found_out_of_a_file(tmp_path: Path) -> None:
    table = load(put(tmp_path / "rows.csv", "frage;antwort\nWas hilft?;Früh schlafen\n".encode("cp1252")))
    assert table.notes == ["rows.csv read as cp1252 with ;"]
    assert table.rows["antwort"].to_list() == ["Früh schlafen"]


def test_a_stream_gives_as_many_rows_as_are_asked_for(tmp_path: Path, own_cache: None) -> None:
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", dialogues(9))
    table = load(tmp_path / "set", streaming=True, rows=4, take="first")
    assert table.rows.select(COLUMNS).to_dicts() == dialogues(4)
    assert table.notes == []
    assert "first 4 rows" in load(tmp_path / "set", streaming=True, rows=4).notes[0]
    with pytest.raises(UserError, match=r"a number as data\.rows"):
        load(tmp_path / "set", streaming=True)


def test_a_recipe_can_name_delimiter_and_encoding(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", "a:b\n\xe9:y\n".encode("cp850"))
    assert load(file, delimiter=":", encoding="cp850").rows.rows() == [(1, "é", "y")]
    file = put(tmp_path / "b.csv", "a,c\tb\nx\ty\n")
    assert load(file, delimiter="tab").rows.columns == ["row", "a,c", "b"]
    for wrong in ("ab", '"', "\n"):
        assert "expected one character that is no quote, or tab" in refused(file, delimiter=wrong)
    assert "data.encoding: unknown encoding klingon" in refused(file, encoding="klingon")


def frame_of(kind: str, rows: list[dict[str, Any]]) -> Any:
    import datasets
    import pandas as pd

    make: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
        "pandas": pd.DataFrame,
        "polars": pl.DataFrame,
        "datasets": datasets.Dataset.from_list,
        "dict": lambda rows: datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}),
        "list": list,
    }
    return make[kind](rows)


@pytest.mark.parametrize("kind", ["pandas", "polars", "datasets", "dict", "list"])
def test_data_given_from_python_is_read_like_a_file(kind: str) -> None:
    rows = dialogues(4)
    rows[2]["Patient"] = None  # type: ignore[assignment]
    table = sources.load(DataSection(source="clinic"), frame_of(kind, [{**row, "row": 9} for row in rows]))
    assert table.rows.select(COLUMNS).to_dicts() == rows
    assert table.rows["row"].to_list() == [1, 2, 3, 4]
    assert table.rows["row_in_source"].to_list() == [9] * 4
    assert table.where(3) == "data given from Python row 3"
    assert table.inputs == {}


def test_a_pandas_frame_keeps_what_its_columns_hold() -> None:
    import pandas as pd

    given = pd.DataFrame(
        [[1, "x", 2.5, ["p"]], ["two", None, float("nan"), []]], columns=["a", "b", "b", 7], index=[5, 5]
    )
    table = sources.load(DataSection(source="x"), given)
    assert table.rows.to_dicts() == [
        {"row": 1, "a": "1", "b": "x", "b_2": 2.5, "7": ["p"]},
        {"row": 2, "a": "two", "b": None, "b_2": None, "7": []},
    ]
    assert table.notes == [
        "columns renamed, since each needs a name of its own: b → b_2",
        "values of several kinds are kept as text in a",
    ]
    assert list(given.columns) == ["a", "b", "b", 7]


def test_what_is_no_table_is_refused_with_what_is_one() -> None:
    for value in (3, "rows", [1], {"a": [1]}):
        with pytest.raises(UserError, match=r"data given from Python: is builtins\.\w+; expected a pandas"):
            sources.load(DataSection(source="x"), value)
    with pytest.raises(UserError, match="data given from Python: holds no rows"):
        sources.load(DataSection(source="x"), pl.DataFrame({"a": []}))
    with pytest.raises(UserError, match="has no split train"):
        sources.load(DataSection(source="x"), type(frame_of("dict", dialogues(1)))())


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


@pytest.mark.parametrize("kind", ["list", "pandas", "datasets"])
def test_half_a_surrogate_pair_is_named_with_its_row_and_column(kind: str) -> None:
    rows = [{"question": "What?", "answer": "So."}, {"question": "Why?", "answer": "Half \ud83d of it."}]
    given: Any = rows
    if kind == "pandas":
        import pandas as pd

        given = pd.DataFrame(rows, dtype=object)
    if kind == "datasets":
        import datasets

        given = datasets.IterableDataset.from_generator(lambda: iter(rows))
    with pytest.raises(UserError, match=r'row 2: column "answer" holds half of a surrogate pair'):
        sources.load(DataSection(source="x", rows=2), given)


def test_half_a_surrogate_pair_in_a_message_or_a_name_is_an_error_of_the_users_too() -> None:
    message = {"role": "user", "content": "\ud83d"}
    for rows in ([{"messages": [message]}], [{"a": 1, "b": "x"}, {"a": "x", "b": "\ud83d"}], [{"\ud83d": "x"}]):
        with pytest.raises(UserError, match="holds half of a surrogate pair"):
            sources.load(DataSection(source="x"), rows)
