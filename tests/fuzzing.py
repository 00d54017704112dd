"""Inputs that were made to be wrong, and what must hold of each: for the tests and for benchmarks/fuzz.py.

A target is a strategy and a check. The check returns what became of an input in a word, and fails where something came
out that no user could understand: an exception other than UserError or Refused, a message of several lines, a 500.
"""

from __future__ import annotations

import functools
import gzip
import http.client
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from hypothesis import strategies as st

from residency.data import schema, sources
from residency.errors import UserError
from residency.recipe import BUILT_IN_RECIPES, DataSection, Recipe
from residency.serve.refused import Refused
from residency.serve.wire import ChatRequest, CompletionRequest, read
from workbooks import workbook

Check = Callable[[Any], str]


@dataclass(frozen=True)
class Target:
    """What is fuzzed."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Check


# Texts and JSON

NASTY = st.sampled_from(
    [
        *(
            "",
            "\0",
            "\ufeff",
            "\u2028",
            "\x85",
            "\ud800",
            "\U0010ffff",
            "a" * 70_000,
            "'",
            '"',
            "\\",
            "{{ 1 }}",
            "<|im_end|>",
        ),
        *("../../etc/passwd", "~", "$HOME", "%s", "NaN", "-0", "1e999", "0x10", "null", "\u202e", "e\u0301", "\r\n"),
    ]
)
SURROGATES = st.characters(categories=("Cs",))
TEXTS = st.one_of(st.text(max_size=12), NASTY, st.text(SURROGATES, max_size=2))
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, -1e308, 5e-324]),
)
ATOMS = st.one_of(st.none(), NUMBERS, TEXTS)
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)


def changed(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with up to four places damaged: cut, doubled, overwritten, or filled with something nasty."""
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        end = min(at + draw(st.sampled_from([1, 1, 2, 7, 60, 4000])), len(content))
        way = draw(st.sampled_from(["cut", "double", "bytes", "nasty", "end", "flip"]))
        if way == "cut":
            content = content[:at] + content[end:]
        elif way == "double":
            content = content[:end] + content[at:]
        elif way == "bytes":
            content = content[:at] + draw(st.binary(max_size=8)) + content[end:]
        elif way == "nasty":
            content = content[:at] + draw(TEXTS).encode("utf-8", "surrogatepass") + content[at:]
        elif way == "end":
            content = content[:at]
        elif content:
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
    return content


# Readers

SHAPES: tuple[list[dict[str, Any]], ...] = (
    [{"question": f"Why {n}?", "answer": f"So, {n}."} for n in range(4)],
    [
        {"messages": [{"role": "user", "content": f"Why {n}?"}, {"role": "assistant", "content": "So."}]}
        for n in range(3)
    ],
    [{"prompt": "Why?", "chosen": "So.", "rejected": "No.", "id": n} for n in range(3)],
    [{"instruction": "Say", "input": "é", "output": "ü"}, {"instruction": "Say", "input": None, "output": "x"}],
    [{"text": "A text of its own.", "n": 1.5, "list": [1, "a"]}],
)


def _csv(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    flat = pl.DataFrame([{key: json.dumps(value) for key, value in row.items()} for row in rows])
    return flat.write_csv(separator=delimiter).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(rows, strict=False).drop("list", strict=False).write_parquet(buffer)
    return buffer.getvalue()


@st.composite
def workbooks(draw: st.DrawFn) -> bytes:
    """An Excel workbook whose parts are damaged, or which is damaged as a file."""
    whole = workbook({"Rows": [["question", "answer"], ["Why?", "So."], ["When?", 5]], "Notes": [["x"]]})
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as parts, zipfile.ZipFile(buffer, "w") as packed:
        for name in parts.namelist():
            packed.writestr(name, changed(draw, parts.read(name)) if draw(st.integers(0, 3)) == 0 else parts.read(name))
    return changed(draw, buffer.getvalue()) if draw(st.booleans()) else buffer.getvalue()


@st.composite
def data_files(draw: st.DrawFn) -> tuple[str, bytes, str]:
    """A file's name, its damaged content, and `data.on_error`."""
    rows = draw(st.sampled_from(SHAPES))
    if draw(st.booleans()):
        rows = [
            *rows,
            *draw(st.lists(st.dictionaries(st.sampled_from([*rows[0], "row", ""]), VALUES, max_size=3), max_size=2)),
        ]
    suffix = draw(st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md", ".xlsx"]))
    if suffix == ".xlsx":
        return "rows.xlsx", draw(workbooks()), draw(st.sampled_from(["stop", "skip"]))
    try:
        if suffix == ".parquet":
            content = _parquet(rows)
        elif suffix in (".csv", ".tsv"):
            content = _csv(rows, draw(st.sampled_from([",", ";", "\t", "|"])))
        elif suffix == ".json":
            content = json.dumps(rows).encode()
        else:
            content = "\n".join(json.dumps(row) for row in rows).encode()
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):  # no such file could be written
        content = b""
    if suffix != ".parquet" and draw(st.integers(0, 4)) == 0:
        encoding = draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32", "cp1252", "shift_jis"]))
        content = content.decode("utf-8", "replace").encode(encoding, "replace")
    content = changed(draw, content)
    if draw(st.integers(0, 4)) == 0:
        content, suffix = changed(draw, gzip.compress(content)), f"{suffix}.gz"
    return f"rows{suffix}", content, draw(st.sampled_from(["stop", "skip"]))


def read_file(given: tuple[str, bytes, str]) -> str:
    """A table, or one line that names the file."""
    name, content, on_error = given
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        section = DataSection(source=str(path), on_error=on_error)  # type: ignore[arg-type]
        try:
            table = sources.load(section)
            assert table.rows.height + len(table.unreadable) > 0
            assert table.rows["row"].n_unique() == table.rows.height
            shape = schema.recognise(table.rows, section)
            return shape.kind
        except UserError as error:
            _one_line(error)
            assert str(path) in str(error) or "column" in str(error)
            return "refused"


# Recipes

KEYS = st.sampled_from(
    [
        *("name", "data", "model", "prompt", "train", "evaluate", "study", "guard", "source", "lora", "rank", "epochs"),
        *("dpo", "synthesise", "base", "revision", "trust_remote_code", "seed", "drop", "clean", "names", "redirects"),
    ]
)
SECTIONS = st.dictionaries(KEYS | TEXTS, VALUES | st.dictionaries(KEYS, VALUES, max_size=3), max_size=4)
OVERRIDES = st.lists(
    st.builds(
        lambda path, value: f"{'.'.join(path)}={value}",
        st.lists(KEYS | TEXTS, min_size=1, max_size=3),
        TEXTS | VALUES.map(lambda value: json.dumps(value, default=str)),
    )
    | TEXTS,
    max_size=2,
)


@functools.cache
def _recipes() -> tuple[bytes, ...]:
    written = [Recipe.load(name).dump() for name in BUILT_IN_RECIPES]
    anchors = "a: &a {x: 1}\nname: x\ndata: {source: clinic}\n<<: *a\ntrain: {lora: {rank: 4}, epochs: 1e1}\n"
    return tuple(text.encode() for text in (*written, anchors, "name: x\ndata:\n  source: clinic\n"))


@st.composite
def recipes(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    """A recipe's file, damaged or of random fields, and overrides."""
    if draw(st.booleans()):
        content = changed(draw, draw(st.sampled_from(_recipes())))
    else:
        base = {"name": "x", "data": {"source": "clinic"}}
        try:
            content = yaml.safe_dump({**base, **draw(SECTIONS)}, allow_unicode=True).encode("utf-8", "surrogatepass")
        except (yaml.YAMLError, ValueError):
            content = draw(st.binary(max_size=40))
    return content, draw(OVERRIDES) if draw(st.booleans()) else []


def load_recipe(given: tuple[bytes, list[str]]) -> str:
    """A recipe that is the same when it is written and read again, or one line that says what is wrong."""
    content, overrides = given
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(content)
        try:
            recipe = Recipe.load(path, overrides)
        except UserError as error:
            _one_line(error)
            return "refused"
        path.write_text(recipe.dump(), "utf-8")
        assert Recipe.load(path) == recipe
        return "loaded"


# The server's JSON

ASKED: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "A cough?"}], "max_tokens": 2}
TEXT: dict[str, Any] = {"model": "small", "prompt": "A cough", "max_tokens": 2}
FIELDS = st.sampled_from(
    [
        *(
            "model",
            "messages",
            "prompt",
            "max_tokens",
            "max_completion_tokens",
            "stream",
            "stream_options",
            "stop",
            "seed",
        ),
        *("temperature", "top_p", "n", "tools", "logprobs", "response_format", "user", "metadata", "echo", "best_of"),
    ]
)
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", ""])
PARTS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"])}, optional={"text": VALUES}), max_size=2
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES, "content": TEXTS | PARTS | VALUES}, optional={"name": VALUES, "refusal": VALUES}
    ),
    max_size=4,
)
BODIES = st.builds(
    lambda whole, extra, messages: {**whole, **extra, **messages},
    st.sampled_from([ASKED, TEXT]),
    st.dictionaries(FIELDS | TEXTS, VALUES, max_size=3),
    st.one_of(st.just({}), st.fixed_dictionaries({"messages": MESSAGES}), st.fixed_dictionaries({"prompt": VALUES})),
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A request's body: fields of the wrong kind, or the bytes damaged."""
    body = json.dumps(draw(BODIES) if draw(st.integers(0, 5)) else draw(VALUES)).encode()
    return changed(draw, body) if draw(st.integers(0, 3)) == 0 else body


def read_request(body: bytes) -> str:
    """A request that is understood, or an error object that JSON can hold."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return "no JSON"
    outcome = "refused"
    for kind in (ChatRequest, CompletionRequest):
        try:
            read(kind, raw)
            outcome = "understood"
        except Refused as refused:
            assert refused.status == 400
            json.dumps(refused.body()).encode()
            assert len(refused.message.splitlines()) == 1
    return outcome


def answer_at(address: str) -> Check:
    """What a whole server makes of a body: an answer, or an error object; never a fault."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=120)

    def post(path: str, body: bytes) -> tuple[int, bytes]:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def check(body: bytes) -> str:
        for path in ("/v1/chat/completions", "/v1/completions"):
            try:
                status, answer = post(path, body)
            except (http.client.HTTPException, OSError):  # it was idle for longer than the server waits
                connection.close()
                status, answer = post(path, body)
            assert status in (200, 400, 404, 413), (status, answer[:300])
            if status != 200:
                error = json.loads(answer)["error"]
                assert set(error) == {"message", "type", "param", "code"} and error["message"]
        return str(status)

    return check


def _one_line(error: UserError) -> None:
    assert "\n" not in str(error) and str(error).strip()
    str(error).encode("utf-8", "backslashreplace")


READERS = Target("readers", data_files(), read_file)
RECIPES = Target("recipes", recipes(), load_recipe)
REQUESTS = Target("requests", bodies(), read_request)
