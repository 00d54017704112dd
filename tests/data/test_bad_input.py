"""Every kind of bad input, through the whole first stage: an exact outcome, or one line that says what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conftest import write_jsonl
from residency import pipeline
from residency.data import files
from residency.errors import UserError
from residency.recipe import Recipe

WRITTEN = ("train.parquet", "train.jsonl", "train.text.jsonl", "dropped.parquet", "report.json")
SKIP = {"on_error": "skip"}


def pairs(count: int = 6) -> list[dict[str, Any]]:
    return [
        {"question": f"What helps in case {n}{chr(97 + n)}?", "answer": f"Rest for {n * n + 1} days."}
        for n in range(count)
    ]


def lines(*extra: str, count: int = 6) -> str:
    return "".join(f"{line}\n" for line in [*(json.dumps(row) for row in pairs(count)), *extra])


def columns(*rows: str, delimiter: str = ",", count: int = 6) -> str:
    head = [delimiter.join(("question", "answer"))]
    return "".join(f"{row}\n" for row in [*head, *(delimiter.join(row.values()) for row in pairs(count)), *rows])


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(rows, schema=None if rows else {"question": pl.String, "answer": pl.String}).write_parquet(buffer)
    return buffer.getvalue()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/worksheets/sheet1.xml", content)
    return buffer.getvalue()


def loop(folder: Path) -> None:
    (folder / "rows.jsonl").symlink_to(folder / "rows.jsonl")


def folder_loop(folder: Path) -> None:
    write_jsonl(folder / "rows.jsonl", pairs())
    (folder / "again").symlink_to(folder, target_is_directory=True)


def dangling(folder: Path) -> None:
    (folder / "rows.jsonl").symlink_to(folder / "nowhere.jsonl")


@dataclass(frozen=True)
class Case:
    """Content of a file (or what makes the files), its name or the pattern that is read, and what comes of it."""

    name: str
    content: str | bytes | Callable[[Path], object]
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    error: str = ""
    last: str = ""  # the last answer that is kept
    data: dict[str, Any] = field(default_factory=dict)


def kept(name: str, content: Any, rows: int, last: str = "", /, **data: Any) -> Case:
    dropped = {
        key.replace("_", " "): data.pop(key) for key in list(data) if isinstance(data[key], int) and key in DROPS
    }
    return Case(name, content, rows, dropped, last=last, data=data)


def refused(name: str, content: Any, error: str, /, **data: Any) -> Case:
    return Case(name, content, error=error, data=data)


DROPS = ("unreadable", "empty_answer", "empty_question", "exact_duplicate", "over_max_length")
ROW = '{"question": "Why?", "answer": '
FRENCH = columns("Où est-il ?,À l'hôpital près du café.")
CYRILLIC = columns("Что делать при кашле?,Пейте воду и отдыхайте дома.")
DEEP = "[" * 80 + "]" * 80

CASES = {
    # encodings
    "western text is not utf-8": kept("a.csv", FRENCH.encode("cp1252"), 7, "À l'hôpital près du café."),
    "cyrillic text is not utf-8": kept("a.csv", CYRILLIC.encode("cp1251"), 7, "Пейте воду и отдыхайте дома."),
    "western jsonl": kept("a.jsonl", lines(ROW + '"Café crème à côté."}').encode("cp1252"), 7, "Café crème à côté."),
    "utf-8 with a mark": kept("a.csv", b"\xef\xbb\xbf" + columns().encode(), 6),
    "jsonl with a mark": kept("a.jsonl", b"\xef\xbb\xbf" + lines().encode(), 6),
    "utf-16 with a mark": kept("a.csv", FRENCH.encode("utf-16"), 7, "À l'hôpital près du café."),
    "utf-16 jsonl": kept("a.jsonl", lines(ROW + '"Öl."}').encode("utf-16"), 7, "Öl."),
    "utf-16 without a mark": kept("a.csv", columns().encode("utf-16-le"), 6),
    "utf-16 cut in half a character": refused("a.csv", columns().encode("utf-16")[:-1], "not a readable csv file"),
    "one damaged byte in utf-8": refused(
        "a.jsonl",
        lines(ROW + '"Öl ist gut für die Füße."}').encode().replace(b"\xc3\xbcr", b"\xc3r"),
        "line 7: .*UTF-8",
    ),
    "one damaged byte, skipped": kept(
        "a.csv", columns("Où ?,à côté", "Où ?,à c\udcf4té").encode("utf-8", "surrogateescape"), 7, unreadable=1, **SKIP
    ),
    "random bytes": refused("a.csv", bytes(range(128, 256)) * 20 + b"\x81\x00\xff\xfe", "no text in any encoding"),
    "a nul byte in a csv": refused("a.csv", columns("How\0 so?,Because."), "line 8: a NUL byte, which is no text"),
    "a nul byte in a csv, skipped": kept("a.csv", columns("How\0 so?,Because."), 6, unreadable=1, **SKIP),
    "nul bytes in a text": kept("a.txt", "Be\0cause.", 1, "Because."),
    "nul byte in jsonl": refused("a.jsonl", lines(ROW + '"a\0b"}'), "line 7: .*control character"),
    "escaped nul in jsonl": kept("a.jsonl", lines(ROW + '"a\\u0000b."}'), 7, "ab."),
    "another encoding than the recipe says": refused(
        "a.csv", FRENCH.encode("cp1252"), "no utf-8 text", encoding="utf-8"
    ),
    "an encoding that there is not": refused(
        "a.csv", FRENCH, "data.encoding: unknown encoding utf8mb4", encoding="utf8mb4"
    ),
    # json
    "unterminated object": refused("a.jsonl", lines('{"question": "x"'), r"line 7: no JSON object .*on_error: skip"),
    "unterminated object, skipped": kept("a.jsonl", lines('{"question": "x"'), 6, unreadable=1, **SKIP),
    "unterminated array": refused("a.json", json.dumps(pairs())[:-5], "not valid JSON"),
    "lone surrogate": refused("a.jsonl", lines(ROW + '"\\ud83d"}'), "line 7: .*surrogate"),
    "lone surrogate in an array": kept(
        "a.json", json.dumps([*pairs(), {"question": "Why?", "answer": "\ud83d"}]), 6, unreadable=1, **SKIP
    ),
    "null rows in jsonl": kept("a.jsonl", lines("null", "null"), 6, unreadable=2, **SKIP),
    "null rows in an array": refused("a.json", json.dumps([*pairs(), None]), "row 7: .*found null"),
    "null answers": kept("a.jsonl", lines(ROW + "null}"), 6, empty_answer=1),
    "missing answers": kept("a.jsonl", lines('{"question": "Why?"}'), 6, empty_answer=1),
    "empty objects": refused("a.jsonl", "{}\n{}\n", "no known record shape"),
    "arrays for rows": refused("a.jsonl", '["x", "y"]\n["z", "w"]\n', "line 1: .*found list"),
    "an array in a jsonl": kept("a.jsonl", json.dumps(pairs()), 6),
    "an array over many lines in a jsonl": kept("a.jsonl", json.dumps(pairs(), indent=1), 6),
    "lines in a json": kept("a.json", lines(), 6),
    "an object of arrays": kept("a.json", json.dumps({"question": ["a?", "b?"], "answer": ["Yes.", "No."]}), 2, "No."),
    "an object of uneven arrays": refused("a.json", '{"question": ["a"], "answer": []}', "question 1, answer 0"),
    "an object that is no table": refused("a.json", '{"question": "a", "answer": "b"}', "an object of arrays"),
    "a bare number": refused("a.json", "3", "a.json: int; expected an array"),
    "a key twice": refused("a.jsonl", lines('{"answer": "x", "answer": "y"}'), 'line 7: .*key "answer" stands twice'),
    "nested a thousand deep": refused("a.jsonl", lines(ROW + "[" * 100_000), "line 7: .*nested too deeply"),
    "nested eighty deep": kept("a.jsonl", lines(ROW + f'"x", "more": {DEEP}}}'), 6, unreadable=1, **SKIP),
    "not a number": kept("a.jsonl", lines(ROW + "NaN}"), 6, empty_answer=1),
    "infinity": refused("a.jsonl", lines(ROW + "Infinity}"), "line 7: .*Infinity is no JSON"),
    "huge integers": kept("a.jsonl", lines(ROW + "9" * 60 + "}"), 7, "9" * 60, redact=False),
    "integers of 5,000 digits": refused("a.jsonl", lines(ROW + "9" * 5000 + "}"), "line 7: .*4300 digits"),
    "a blank file of lines": refused("a.jsonl", "\n \n\n", "holds no rows; expected at least one row"),
    "a line of 50 MB": kept("a.jsonl", lines(ROW + '"' + "x" * 50_000_000 + '"}'), 6, unreadable=1, **SKIP),
    "a line of 50 MB stops": refused(
        "a.jsonl", lines(ROW + '"' + "x" * 50_000_000 + '"}'), "line 7: .*50,000,0.. char"
    ),
    # kinds of values
    "numbers as answers": kept(
        "a.jsonl", '{"question": "2 + 2?", "answer": 4}\n{"question": "1 + 1?", "answer": 2}', 2
    ),
    "numbers and text": kept("a.jsonl", lines(ROW + "4}", ROW.replace("Why", "Is it") + "true}"), 8, "true"),
    "whole and broken numbers": kept(
        "a.jsonl", "\n".join(ROW.replace("Why", w) + f"{w}}}" for w in ("1", "2.5")), 2, "2.5"
    ),
    "lists as answers": refused("a.jsonl", ROW + '["a", "b"]}\n', 'column "answer" holds List.*expected text'),
    "lists and text as answers": kept("a.jsonl", lines(ROW + '["a", "b"]}'), 7, '["a", "b"]'),
    "objects as answers": refused("a.jsonl", ROW + '{"text": "a"}}\n', 'column "answer" holds Struct'),
    "bytes as answers": refused("a.parquet", parquet([{"question": "a", "answer": b"\xff"}]), "no text; expected text"),
    "nothing but nulls": refused(
        "a.parquet", parquet([{"question": "a", "answer": None}]), r"no row is left \(1 empty an"
    ),
    "text from right to left": kept("a.csv", columns("ما العلاج؟,الراحة والماء."), 7, "الراحة والماء."),
    "emoji": kept("a.csv", columns("Hot? 🤒,Drink 🥤 and rest 👨‍👩‍👧."), 7, "Drink 🥤 and rest 👨‍👩‍👧."),
    "one question for all": kept(
        "a.jsonl",
        "".join(json.dumps({"question": "Why?", "answer": f"Case {n} is {n * n}."}) + "\n" for n in range(9)),
        9,
    ),
    "the same row over and over": kept("a.csv", "question,answer\n" + "Why?,So.\n" * 5, 1, exact_duplicate=4),
    "a column called row": kept("a.jsonl", '{"row": 9, "question": "Why?", "answer": "So it is."}\n', 1),
    "line separators of unicode": kept("a.jsonl", lines(ROW + '"a\\u2028b\u2028c."}'), 7, "a b c."),
    # csv
    "columns with one name": kept("a.csv", "question,answer,answer\nWhy?,So.,No.\n", 1, "So."),
    "a header alone": refused("a.csv", "question,answer\n", "holds no rows; expected at least one row"),
    "no header": refused("a.csv", "Why?,So.\nHow?,Thus.\n", "no known record shape; its columns are Why"),
    "nothing left after cleaning": refused(
        "a.csv", "question,answer\nWhy?, \u200b\n,So.\n", "no row is left .*1 empty ans"
    ),
    "a row too long": refused("a.csv", columns("a,b,c"), "line 8: 3 fields, the header has 2"),
    "rows too long and too short": kept("a.csv", columns("a,b,c", "a"), 6, unreadable=2, **SKIP),
    "an unclosed quote": refused("a.csv", columns('"Why?,So.', "How?,Thus."), "line 8: a quote that is not closed"),
    "an unclosed quote, skipped": kept("a.csv", columns('"Why?,So.', "How?,Thus."), 7, "Thus.", unreadable=1, **SKIP),
    "quotes that close each other": kept(
        "a.csv", columns('"Why?,So.', "How?,Thus.", '"Or, how?",Well.'), 8, "Well.", unreadable=1, **SKIP
    ),
    "a quote within a word": kept("a.csv", columns("How tall is 5' 10\"?,It is 178 cm."), 7, "It is 178 cm."),
    "semicolons": kept("a.csv", columns("Fever, cough?;Rest, drink.", delimiter=";"), 7, "Rest, drink."),
    "tabs in a csv": kept("a.csv", columns(delimiter="\t"), 6),
    "bars in a tsv": kept("a.tsv", columns(delimiter="|"), 6),
    "another delimiter than the recipe says": refused(
        "a.csv", columns(), "its columns are question,answer", delimiter=";"
    ),
    "a delimiter of two characters": refused(
        "a.csv", columns(), "data.delimiter is '::'; expected one", delimiter="::"
    ),
    "a hint of excel": kept("a.csv", "sep=;\n" + columns(delimiter=";"), 6),
    "line ends of the mac": kept("a.csv", columns().replace("\n", "\r"), 6),
    "line ends of windows": kept("a.jsonl", lines().replace("\n", "\r\n"), 6),
    "an empty csv": refused("a.csv", "", "holds no rows"),
    "a csv of blank lines": refused("a.csv", "\n\n", "holds no rows"),
    # packed and binary files
    "a gzip file": kept("a.csv.gz", gzip.compress(columns().encode()), 6),
    "an empty gzip file": refused("a.jsonl.gz", b"", "holds no rows"),
    "a gzip file of nothing": refused("a.jsonl.gz", gzip.compress(b""), "holds no rows"),
    "a gzip file cut short": refused("a.jsonl.gz", gzip.compress(lines().encode())[:-9], "jsonl.gz file .Truncated"),
    "a gzip file that is none": refused("a.jsonl.gz", lines(), "not a readable jsonl.gz file"),
    "a gzip bomb": refused("a.csv.gz", gzip.compress(b"a" * 3_000_000), "unpack to more than .*; expected at most"),
    "an excel bomb": refused("a.xlsx", zipped(b"a" * 3_000_000), "unpack to more than"),
    "an excel file that is none": refused("a.xlsx", columns(), "not a readable xlsx file"),
    "a zip that is no workbook": refused("a.xlsx", zipped(b"<a/>"), "not a readable xlsx file"),
    "parquet cut short": refused("a.parquet", parquet(pairs())[:-40], "not a readable parquet file"),
    "parquet without its head": refused("a.parquet", parquet(pairs())[40:], "not a readable parquet file"),
    "parquet without rows": refused("a.parquet", parquet([]), "holds no rows"),
    "text that is called parquet": refused("a.parquet", lines(), "not a readable parquet file"),
    "parquet that is called csv": refused("a.csv", parquet(pairs()), "is a Parquet file by its content"),
    "gzip that is called jsonl": refused("a.jsonl", gzip.compress(lines().encode()), "is a gzip file by its content"),
    "jsonl that is called csv": refused(
        "a.csv", lines(), "is a JSON file by its content; expected csv text; rename it"
    ),
    "an unknown format": refused("a.docx", "x", "unknown format .docx; expected one of .jsonl"),
    "no suffix": refused("rows", lines(), r"unknown format \(none\)"),
    # files and folders
    "a folder in place of a file": refused(
        "a.jsonl", lambda folder: (folder / "a.jsonl").mkdir(), "holds no data files"
    ),
    "an empty folder": refused(".", lambda folder: None, "the folder holds no data files"),
    "a folder of pictures": refused(".", lambda folder: (folder / "a.png").write_bytes(b"\x89PNG"), "no data files"),
    "a link to itself": refused("rows.jsonl", loop, "no such file"),
    "a link to nothing": refused("rows.jsonl", dangling, "no such file"),
    "a folder that holds itself": kept("**/*.jsonl", folder_loop, 6),
    "a pattern that fits nothing": refused("*.jsonl", lambda folder: None, "no such file"),
    "a pattern over mixed formats": kept(
        "*.*",
        lambda folder: (
            write_jsonl(folder / "a.jsonl", pairs(3)),
            pl.DataFrame(pairs()[3:]).write_csv(folder / "b.csv"),
        ),
        6,
    ),
    "a pattern over an empty file": kept(
        "*.jsonl", lambda folder: (write_jsonl(folder / "a.jsonl", pairs()), (folder / "b.jsonl").touch()), 6
    ),
    "a home that there is not": refused("~nobody-at-all/a.jsonl", lambda folder: None, "no such file"),
    "a name far too long": refused("x" * 5000 + ".csv", lambda folder: None, "can't be looked up .File name too long"),
    "a nul in the name": refused("a\0.csv", lambda folder: None, "no such file"),
    "an empty text": refused("a.txt", "", "holds no rows"),
    "a text of blanks": refused("a.txt", " \n\n", r"no row is left \(1 empty answer"),
    # what the recipe asks for
    "more rows than there are": kept("a.jsonl", lines(), 6, rows=1000),
    "fewer rows than there are": kept("a.jsonl", lines(), 2, rows=2),
    "no rows at all": refused("a.jsonl", lines(), "data.rows is 0", rows=0),
    "no test": kept("a.jsonl", lines(), 6, test=0.0),
    "nothing but test": refused("a.jsonl", lines(), "data.test is 1.0", test=1.0),
    "test and validation leave nothing": refused("a.jsonl", lines(), "nothing to train on", test=0.5, validation=0.5),
    "one row and a test": refused("a.jsonl", lines(count=1), "data.test 0.5 gives no row of 1 to test", test=0.5),
    "a column that there is not": refused("a.jsonl", lines(), 'no column "reply"', question="question", answer="reply"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_input_has_an_exact_outcome_or_is_refused_in_one_line(
    case: Case, tmp_path: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BOMB_BYTES", 2_000_000)
    folder = tmp_path / "source"
    folder.mkdir()
    if callable(case.content):
        case.content(folder)
    else:
        (folder / case.name).write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    source = case.name if case.name.startswith("~") else str(folder / case.name)
    raw = {
        "name": "bad",
        "data": {"source": source, "test": 0.0, "validation": 0.0, **case.data},
        "model": {"base": str(llama_folder)},
    }
    run = tmp_path / "run"
    if case.error:
        with pytest.raises(UserError, match=case.error) as raised:
            pipeline.prepare(Recipe.parse(raw), run)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 1000
        assert not list((run / "data").glob("*"))
        return
    report = pipeline.prepare(Recipe.parse(raw), run)
    assert (report["kept"], report["dropped"]) == (case.kept, case.dropped)
    train = [json.loads(line) for line in (run / "data" / "train.jsonl").read_text("utf-8").splitlines()]
    assert len(train) == case.kept
    assert not case.last or train[-1]["answer"] == case.last
    assert {*WRITTEN} <= {path.name for path in (run / "data").iterdir()}
    assert not list(run.rglob("*.partial"))
