"""The page of faults is what the tests of faults counted, and names each of them."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def reliability() -> ModuleType:
    found = importlib.util.spec_from_file_location("reliability", DOCS / "reliability.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def marked() -> set[tuple[str, str, str, str]]:
    """Fault, place, outcome and file of each mark in the tests."""
    found = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                fault, where, outcome = (ast.literal_eval(argument) for argument in node.args)
                found.add((fault, where, outcome, f"../{file.relative_to(ROOT).as_posix()}"))
    return found


def test_every_fault_that_a_test_injects_stands_in_the_table_with_nothing_lost() -> None:
    lines = [line.strip("| ").split(" | ") for line in (DOCS / "reliability.md").read_text("utf-8").splitlines()]
    rows = [cells for cells in lines if len(cells) == 7 and "](../tests/" in cells[6]]
    shown = {(fault, where, outcome, test.partition("](")[2][:-1]) for fault, where, outcome, *_, test in rows}
    assert shown == marked(), "make the table anew: make faults"
    assert all(int(injected) == int(survived) > 0 and lost == "0" for *_, injected, survived, lost, _ in rows)


def test_the_table_adds_up_what_was_counted_and_takes_the_old_ones_place(reliability: ModuleType) -> None:
    one = {"fault": "a kill", "where": "train", "outcome": "goes on", "test": "tests/test_x.py::test_it"}
    rows = [{**one, "injected": 3, "survived": 3, "lost": 0}, {**one, "injected": 2, "survived": 0, "lost": 2}]
    made = reliability.table(rows)
    assert "| a kill | train | goes on | 5 | 3 | 2 | [test_x](../tests/test_x.py) |" in made
    page = f"# Page\n{reliability.BEGIN}\nold\n{reliability.END}\nrest\n"
    assert reliability.put(page, made) == f"# Page\n{reliability.BEGIN}\n\n{made}\n\n{reliability.END}\nrest\n"


def test_a_run_of_tests_counts_what_each_injected(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"), "utf-8")
    (tmp_path / "test_two.py").write_text(
        "import pytest\n"
        "@pytest.mark.fault('a', 'train', 'x')\n"
        "def test_one(record_property):\n    record_property('injected', 4)\n"
        "@pytest.mark.fault('b', 'train', 'y')\n"
        "def test_two():\n    assert False\n"
        "def test_three():\n    pass\n",
        "utf-8",
    )
    counted = tmp_path / "counted.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--reliability", str(counted), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    rows = {row["fault"]: row for row in map(json.loads, counted.read_text("utf-8").splitlines())}
    assert done.returncode == 1, done.stdout
    assert {name: (row["injected"], row["survived"], row["lost"]) for name, row in rows.items()} == {
        "a": (4, 4, 0),
        "b": (1, 0, 1),
    }
