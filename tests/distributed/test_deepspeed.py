"""DeepSpeed's settings are read before anything is loaded; docs/scale.md says how it was tried."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from residency.errors import UserError
from residency.train.distributed import refuse_deepspeed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "can't be read"),
        ("[]", "can't be read"),
        (json.dumps({"zero_optimization": {"stage": 3}}), "stage is 3; expected 0, 1 or 2; strategy fsdp"),
    ],
)
def test_settings_that_cant_be_followed_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "ds.json"
    file.write_text(text, "utf-8")
    with pytest.raises(UserError) as caught:
        refuse_deepspeed(file)
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        refuse_deepspeed(tmp_path / "none.json")


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_a_missing_deepspeed_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text("{}", "utf-8")
    with pytest.raises(UserError, match="DeepSpeed is not installed"):
        refuse_deepspeed(file)
