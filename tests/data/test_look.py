from __future__ import annotations

from pathlib import Path

import pytest

from conftest import dialogues, write_jsonl
from residency.data.look import look
from residency.errors import UserError


def test_a_known_shape_is_proposed_with_a_limit_in_tokens(data_file: Path) -> None:
    found = look(str(data_file))
    assert found.data == {"source": str(data_file), "question": "Description", "answer": "Doctor"}
    assert found.max_length == 256
    assert found.lines[0] == "60 rows, columns Description, Patient, Doctor"


def test_unknown_columns_are_guessed_and_said_to_be(tmp_path: Path) -> None:
    rows = [{"id": n, "subject": f"Why {n}?", "who": "me", "reply": f"Because of {n} and more. " * 5} for n in range(9)]
    found = look(str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    assert (found.data["question"], found.data["answer"]) == ("subject", "reply")
    assert any(line.startswith("a guess, for you to check") for line in found.lines)


def test_two_readings_are_both_said(tmp_path: Path) -> None:
    rows = [{"question": "q?", "answer": "a.", "text": "q? a."}]
    lines = look(str(write_jsonl(tmp_path / "rows.jsonl", rows))).lines
    assert "read as question/answer: question -> answer" in lines
    assert "could also be read as text: text" in lines


def test_long_rows_propose_a_longer_limit(tmp_path: Path) -> None:
    rows = [{"question": "q?", "answer": "word " * 900}]
    assert look(str(write_jsonl(tmp_path / "rows.jsonl", rows))).max_length == 2048


def test_conversations_and_texts_are_proposed_as_such(tmp_path: Path) -> None:
    talk = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
    assert look(str(write_jsonl(tmp_path / "talk.jsonl", talk))).data["messages"] == "messages"
    assert look(str(write_jsonl(tmp_path / "one.jsonl", [{"body": "Some text."}]))).data["text"] == "body"


def test_a_table_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column of text"):
        look(str(write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])))


def test_faulty_rows_are_counted(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", dialogues(3))
    path.write_text(path.read_text() + "{torn\n")
    assert any("1 rows can't be read" in line for line in look(str(path)).lines)
