from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from residency.data import delimited, files, frames, readers
from residency.data.readers import Options, Read, read
from residency.errors import UserError
from workbooks import workbook

SKIP = Options(on_error="skip")


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def why(path: Path, options: Options = SKIP) -> str:
    with pytest.raises(UserError) as error:
        read(path, options)
    assert "\n" not in str(error.value)
    return str(error.value)


def rows(found: Read) -> list[dict[str, Any]]:
    assert found.rows.height == len(found.positions)
    return found.rows.to_dicts()


# Text and its encodings

TEXTS = {
    "cp1252": "L'hôpital est fermé. Où est le médecin ? Café crème à côté – 5 €.",
    "cp1250": "Co robić przy gorączce? Odpoczywać i pić dużo wody, zażółć gęślą jaźń.",
    "cp1251": "Что делать при высокой температуре? Пейте воду и отдыхайте дома.",
    "koi8_r": "Что делать при высокой температуре? Пейте воду и отдыхайте дома.",
    "cp932": "熱があるときはどうすればいいですか。休んで水を飲んでください。",
    "euc_jp": "熱があるときはどうすればいいですか。休んで水を飲んでください。",
    "gb18030": "发烧时应该怎么办？多休息多喝水。",
    "big5": "發燒時應該怎麼辦？多休息多喝水。",
    "utf-16": "Größe 🤒 und 熱",
    "utf-32": "Größe 🤒 und 熱",
}


@pytest.mark.parametrize("name", TEXTS)
def test_an_encoding_is_found_and_told(name: str, tmp_path: Path) -> None:
    found = read(put(tmp_path / "a.txt", TEXTS[name].encode(name)), Options())
    assert rows(found) == [{"text": TEXTS[name], "source": "a.txt"}]
    assert found.notes == [f"a.txt read as {name}"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_utf8_needs_no_telling(mark: bytes, tmp_path: Path) -> None:
    found = read(put(tmp_path / "a.txt", mark + "Größe 🤒".encode()), Options())
    assert rows(found) == [{"text": "Größe 🤒", "source": "a.txt"}]
    assert found.notes == []


def test_a_given_encoding_is_taken_though_another_would_fit(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", "text\nßäö\n".encode("cp1252"))
    found = read(file, Options(encoding="cp1251"))
    assert rows(found) == [{"text": "ßäö".encode("cp1252").decode("cp1251")}]
    assert found.notes == []
    assert "is no utf-8 text; set data.encoding" in why(file, Options(encoding="utf-8"))
    assert "unknown encoding klingon" in why(file, Options(encoding="klingon"))
    assert "unknown encoding base64" in why(file, Options(encoding="base64"))


def test_damage_in_utf8_is_a_fault_of_its_row_and_not_another_encoding(tmp_path: Path) -> None:
    content = '{"a": "é"}\n{"a": "\udcff"}\n{"a": "ü"}\n'.encode("utf-8", "surrogateescape")
    found = read(put(tmp_path / "a.jsonl", content), SKIP)
    assert rows(found) == [{"a": "é"}, {"a": "ü"}]
    assert found.unreadable == [(2, "line 2: no JSON object (bytes that are no UTF-8)")]
    found = read(put(tmp_path / "a.csv", "a\né\n\udcff\nü\n".encode("utf-8", "surrogateescape")), SKIP)
    assert (rows(found), found.unreadable) == ([{"a": "é"}, {"a": "ü"}], [(2, "line 3: bytes that are no UTF-8")])
    found = read(put(tmp_path / "a.txt", "é ü \udcff".encode("utf-8", "surrogateescape")), SKIP)
    assert (rows(found), found.unreadable) == ([], [(1, "row 1: bytes that are no UTF-8")])


# Compression


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.xlsx", "a.json", "a.md"])
def test_a_packed_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pl.DataFrame({"a": ["x", "ü"]}).write_parquet(buffer)
    content = {
        "a.csv": "a\nx\nü\n".encode(),
        "a.parquet": buffer.getvalue(),
        "a.xlsx": workbook({"S": [["a"], ["x"], ["ü"]]}),
        "a.json": '[{"a": "x"}, {"a": "ü"}]'.encode(),
        "a.md": "x ü".encode(),
    }[name]
    plain = read(put(tmp_path / name, content), Options())
    packed = read(put(tmp_path / f"{name}.gz", gzip.compress(content[:9]) + gzip.compress(content[9:])), Options())
    both = (rows(plain), rows(packed))
    assert both[0] == [{**row, **({"source": name} if name == "a.md" else {})} for row in both[1]]
    assert len(both[0]) == (1 if name == "a.md" else 2)


def test_a_bomb_is_refused_by_size_and_ratio_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BOMB_BYTES", 100_000)
    honest = "a\n" + "".join(f"{n * n * 7919 % 1_000_003}\n" for n in range(30_000))
    assert read(put(tmp_path / "a.csv.gz", gzip.compress(honest.encode())), Options()).rows.height == 30_000
    small = gzip.compress(b"a\n" + b"1" * 90_000 + b"\n")
    assert read(put(tmp_path / "b.csv.gz", small), Options()).rows.height == 1
    bomb = gzip.compress(b"a\n" + b"1\n" * 1_000_000)
    for name in ("c.csv.gz", "c.parquet.gz", "c.txt.gz"):
        assert f"c.{name[2:]}: {len(bomb):,} bytes that unpack to more than" in why(put(tmp_path / name, bomb))


# JSON


def test_values_of_several_kinds_become_text_and_are_told(tmp_path: Path) -> None:
    values = ["x", 1, 2.5, True, None, [1, "é"], {"b": 2}]
    found = read(put(tmp_path / "a.json", json.dumps([{"a": value, "n": n} for n, value in enumerate(values)])), SKIP)
    assert found.rows["a"].to_list() == ["x", "1", "2.5", "true", None, '[1, "é"]', '{"b": 2}']
    assert found.rows["n"].to_list() == list(range(7))
    assert found.notes == ["a.json: values of several kinds are kept as text in a"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(JSON, min_size=1, max_size=6))
@example(values=[10**30, -1])
@example(values=[[2**60 + 1], ["x"], {}])
@example(values=[[""], [[]]])
@example(values=[{"a": [["x"]]}, {"a": ["y"]}])
def test_any_json_is_a_column_of_as_many_values_none_of_them_lost(
    values: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_text("".join(json.dumps({"v": value}) + "\n" for value in values), "utf-8")
    column = read(file, Options()).rows["v"].to_list()
    assert [value is None for value in column] == [value is None for value in values]
    if all(isinstance(value, str) or value is None for value in values):
        assert column == values


def test_a_value_nested_deeper_than_the_rest_is_kept_as_text_and_told(tmp_path: Path) -> None:
    found = read(put(tmp_path / "a.jsonl", '{"a": {"b": ["x"]}}\n{"a": {"b": [["y"]]}}\n'), Options())
    assert found.rows["a"].to_list() == ['{"b": ["x"]}', '{"b": [["y"]]}']
    assert found.notes == ["a.jsonl: values of several kinds are kept as text in a"]


def test_an_array_in_jsonl_and_lines_in_json_are_read_and_told(tmp_path: Path) -> None:
    array, lines = '[\n{"a": 1},\n{"a": 2}\n]', '{"a": 1}\n\n{"a": 2}\n'
    found = read(put(tmp_path / "a.jsonl", array), Options())
    assert (rows(found), found.unit, list(found.positions)) == ([{"a": 1}, {"a": 2}], "row", [1, 2])
    assert found.notes == ["a.jsonl is a JSON array, and read as one"]
    found = read(put(tmp_path / "a.json", lines), Options())
    assert (rows(found), found.unit, list(found.positions)) == ([{"a": 1}, {"a": 2}], "line", [1, 3])
    assert found.notes == ["a.json holds an object a line, and is read so"]


def test_an_item_that_is_no_object_is_a_fault_of_its_row(tmp_path: Path) -> None:
    file = put(tmp_path / "a.json", '[{"a": 1}, 3, null, {"a": 2}]')
    assert f"{file} row 2: no JSON object (found int); mend it" in why(file, Options())
    found = read(file, SKIP)
    assert list(found.positions) == [1, 4]
    assert found.unreadable == [(2, "row 2: no JSON object (found int)"), (3, "row 3: no JSON object (found null)")]


# CSV


@pytest.mark.parametrize(
    ("content", "default", "delimiter"),
    [
        ("a,b\n1,2\n", ",", ","),
        ("a;b\n1,5;2,5\n", ",", ";"),
        ("a;b\n1;2,5,5\n", ",", ";"),
        ("a\tb\nx, y\tz; w\n", ",", "\t"),
        ("a|b|c\n1|2|3\n", "\t", "|"),
        ("a,b\n1,2\n", "\t", ","),
        ('a;b\n"1;2";"x\n;y"\n', ",", ";"),
        ("a,b;c\n1,2;3\n", ",", ","),  # both fit: the suffix decides
        ("text\none, two; three\n", ",", ","),
        ("", "\t", "\t"),
    ],
)
def test_the_delimiter_is_the_one_that_cuts_every_line_alike(content: str, default: str, delimiter: str) -> None:
    assert delimited.delimiter_of(content.splitlines(keepends=True), default) == delimiter


def test_a_found_delimiter_is_told_and_a_given_one_taken(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", "a;b|c\n1;2|3\n4;5|6\n")
    found = read(file, Options())
    assert (rows(found), found.notes) == ([{"a": "1", "b|c": "2|3"}, {"a": "4", "b|c": "5|6"}], ["a.csv read with ;"])
    found = read(file, Options(delimiter="|"))
    assert (rows(found), found.notes) == ([{"a;b": "1;2", "c": "3"}, {"a;b": "4;5", "c": "6"}], [])
    assert read(put(tmp_path / "b.csv", "a\tb\n1\t2\n"), Options()).notes == ["b.csv read with tab"]
    assert rows(read(put(tmp_path / "c.csv", "sep=|\na|b\n1|2\n"), Options())) == [{"a": "1", "b": "2"}]


UNCLOSED = "a quote that is not closed"


@pytest.mark.parametrize(
    ("body", "kept", "faults"),
    [
        ('x,"1\ny,2\nz,3\n', "yz", {1: 2}),
        ('x,"1\ny,2\n"z",3\n', "yz", {1: 2}),
        ('x,"1\ny,2\nz,"3"\nw,4\n', "yzw", {1: 2}),
        ('w,0\nx,"1\ny,2\nz,"3\nv,4\n', "wyv", {2: 3, 4: 5}),
        ('x,"1\n2",3\ny,4\n', "y", {1: 2}),  # a field of two lines in a row that is too long is one fault
        ('x,"1"2\ny,3\n', "y", {1: 2}),
        ('x,"1\n\n2"\ny,3\n', "xy", {}),
        ('5" nail,1\ny,2\n', ['5" nail', "y"], {}),
    ],
)
def test_an_unclosed_quote_costs_its_own_row_and_no_other(
    body: str, kept: Sequence[str], faults: dict[int, int], tmp_path: Path
) -> None:
    found = read(put(tmp_path / "a.csv", "a,b\n" + body), SKIP)
    assert found.rows["a"].to_list() == list(kept)
    assert {row: int(text.split()[1].rstrip(":")) for row, text in found.unreadable} == faults
    assert sorted([*found.positions, *faults]) == list(range(1, len(kept) + len(faults) + 1))


def test_a_quote_that_closes_by_chance_is_told(tmp_path: Path) -> None:
    found = read(put(tmp_path / "a.csv", 'a,b\n"x,1\ny,2\nz,",3\nw,4\n'), Options())
    assert found.rows["a"].to_list() == ["x,1\ny,2\nz,", "w"]
    assert "look like rows of their own; a quote may be missing in line 2" in found.notes[0]
    assert read(put(tmp_path / "a.csv", 'a,b\n"One.\nTwo.\nThree.",3\n'), Options()).notes == []


def test_a_quote_in_a_long_file_is_looked_for_in_a_thousand_lines_only(tmp_path: Path) -> None:
    body = "".join(f"x{n},{n}\n" for n in range(3000))
    found = read(put(tmp_path / "a.csv", f'a,b\n"open,1\n{body}"closed",2\n'), SKIP)
    assert found.unreadable == [(1, f"line 2: {UNCLOSED}")]
    assert found.rows.height == 3001


def test_columns_without_a_name_of_their_own_are_given_one_and_told(tmp_path: Path) -> None:
    found = read(put(tmp_path / "a.csv", "a,,a,a_2\n1,2,3,4\n"), Options())
    assert rows(found) == [{"a": "1", "column_2": "2", "a_2": "3", "a_2_2": "4"}]
    assert "(empty) → column_2, a → a_2, a_2 → a_2_2" in found.notes[0]


def test_the_limit_of_a_field_is_raised_for_the_reading_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = csv.field_size_limit()
    file = put(tmp_path / "a.csv", f"a,b\n{'x' * 200_000},1\ny,2\n")
    assert read(file, Options()).rows["a"].str.len_chars().to_list() == [200_000, 1]
    assert csv.field_size_limit() == before
    monkeypatch.setattr(delimited, "LONGEST", 1000)
    found = read(file, SKIP)
    assert found.rows["a"].to_list() == ["y"]
    assert "field limit (1000)" in found.unreadable[0][1]
    assert csv.field_size_limit() == before


@settings(max_examples=40, deadline=None)
@given(
    table=st.lists(
        st.tuples(*[st.text(st.sampled_from('a",;\n\t é'), max_size=6)] * 2).filter(any), min_size=1, max_size=6
    ),
    delimiter=st.sampled_from(delimited.DELIMITERS),
)
def test_a_csv_that_python_writes_is_read_back_whatever_its_fields_hold(
    table: list[tuple[str, str]], delimiter: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "written.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, delimiter=delimiter).writerows([("a", "b"), *table])
    found = read(file, Options(delimiter=delimiter))
    assert found.rows.rows() == table
    assert found.unreadable == []


# Excel


def test_a_workbook_is_read_as_text_from_its_first_sheet(tmp_path: Path) -> None:
    sheet = [[None, None], ["question", "answer"], ["How many?", 3], [None, None], ["Weight?", 2.5], ["Code?", "007"]]
    found = read(put(tmp_path / "a.xlsx", workbook({"Rows": sheet, "Notes": [["x"]]})), Options())
    assert found.rows.rows() == [("How many?", "3"), ("Weight?", "2.5"), ("Code?", "007")]
    assert list(found.positions) == [1, 3, 4]
    assert found.notes == ["a.xlsx: the sheet Rows alone is read, of Rows, Notes"]


@pytest.mark.parametrize("sheet", [[], [[None]], [["a", "b"]]])
def test_a_sheet_without_rows_has_none(sheet: list[list[Any]], tmp_path: Path) -> None:
    assert read(put(tmp_path / "a.xlsx", workbook({"S": sheet})), Options()).rows.is_empty()


def test_a_workbook_without_its_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    assert "pip install fastexcel" in why(put(tmp_path / "a.xlsx", workbook({"S": [["a"], [1]]})))


# All formats


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=60), name=st.sampled_from([*readers.FORMATS, ".csv.gz", ".jsonl.zst"]))
@example(content=b"PAR1PAR1", name=".parquet")
@example(content=b"[1,", name=".jsonl")
def test_any_bytes_are_rows_or_a_users_error(
    content: bytes, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = put(tmp_path_factory.getbasetemp() / f"any{name}", content)
    try:
        found = read(file, SKIP)
    except UserError as error:
        assert str(file) in str(error)
        assert "\n" not in str(error)
    else:
        assert found.rows.height == len(found.positions) or found.rows.width == 0


def test_damaged_parquet_is_a_users_error_and_nothing_else_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    pl.DataFrame({"a": [f"text {n}" for n in range(50)], "b": [[n] for n in range(50)]}).write_parquet(buffer)
    content = bytearray(buffer.getvalue())
    refused = 0
    for place in range(4, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            read(put(tmp_path / "a.parquet", bytes(damaged)), SKIP)
        except UserError:
            refused += 1
    assert refused > 20
    assert not capfd.readouterr().err


def test_frames_join_by_name_and_lose_nothing() -> None:
    one, other = pl.DataFrame({"a": [1], "b": [[1]]}), pl.DataFrame({"b": ["x"], "c": [True]})
    assert frames.joined([one, other]).to_dicts() == [
        {"a": 1, "b": "[1]", "c": None},
        {"a": None, "b": "x", "c": True},
    ]
    assert frames.joined([pl.DataFrame(), one]).rows() == [(1, [1])]
