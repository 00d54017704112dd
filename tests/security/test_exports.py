"""What leaves a run: no table that a spreadsheet would take for formulas."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "residency"
WRITERS = {"write_csv", "sink_csv", "to_csv", "write_excel", "to_excel", "DictWriter"}


def test_no_csv_and_no_workbook_is_written_so_that_no_cell_can_be_a_formula() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            assert name not in WRITERS, path
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "csv.writer"), path
            literal = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            writes = any(mark in literal for mark in ("/csv", "/vnd.ms-excel", "spreadsheetml"))
            assert not writes, path  # nor is one sent to a browser
