"""The table of docs/security.md: every threat names a test, and the test is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
ROW = re.compile(r"(?m)^\| (?!threat|---)([^|]+) \| ([^|]+) \| (?:`([\w.]+)::(\w+)` )?\|$")


def test_every_threat_names_a_test_that_is_there() -> None:
    rows = ROW.findall(PAGE)
    assert len(rows) == len([line for line in PAGE.splitlines() if line.startswith("| ")]) - 2 * 4 >= 30
    for threat, _, file, name in rows:
        assert file, f"no test of: {threat}"
        tree = ast.parse((Path(__file__).parent / file).read_text("utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, name


def test_the_short_list_points_to_the_long_one() -> None:
    assert "docs/security.md" in (ROOT / "SECURITY.md").read_text("utf-8")
