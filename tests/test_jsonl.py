from __future__ import annotations

from pathlib import Path

from residency import jsonl


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for row in ({"a": "é\u2028\n"}, {"b": [1, None]}):
        jsonl.add(file, row)
    assert list(jsonl.rows(file)) == [{"a": "é\u2028\n"}, {"b": [1, None]}]


def test_no_file_is_no_row(tmp_path: Path) -> None:
    assert list(jsonl.rows(tmp_path / "none.jsonl")) == []


def test_a_line_that_a_kill_cut_short_is_passed_over_and_the_next_row_stands_on_its_own(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    jsonl.add(file, {"a": 1})
    jsonl.add(file, {"cut": "é" * 9})
    file.write_bytes(file.read_bytes()[:-9])
    jsonl.add(file, {"b": 2})
    assert list(jsonl.rows(file)) == [{"a": 1}, {"b": 2}]


def test_lines_of_something_else_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'[1]\n"text"\n\xff\xfe\n{"a": 1}\n3')
    assert list(jsonl.rows(file)) == [{"a": 1}]


def test_half_of_a_surrogate_pair_does_not_stop_a_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    jsonl.add(file, {"a": "x\ud83d"})
    assert list(jsonl.rows(file)) == [{"a": "x\ud83d"}]
