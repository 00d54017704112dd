"""The rooms of docs/design.md: which may import which, how large a room is, and what must stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "residency"
MODULES = sorted(ROOT.rglob("*.py"))

# What each floor may import, besides its own room. The stages know nothing of each other.
GROUND = {"errors", "disk", "hub", "progress", "environment", "jsonl", "ranks", "sharing"}
MIDDLE = GROUND | {"recipe", "sections", "changes", "workspace", "prompts"}
STAGE = MIDDLE | {
    "untrusted",
    "virtual",
    "models",
    "origin",
    "batches",
    "gradients",
    "loss",
    "packing",
    "row_attention",
    "dither",
    "endpoint",
    "embeddings",
    "decoding",
}
ALLOWED = {
    "errors": set(),
    "disk": {"errors"},
    "hub": set(),
    "progress": set(),
    "environment": set(),
    "ranks": {"errors"},
    "jsonl": set(),
    "sharing": {"errors"},
    "terminal": {"progress"},
    "sections": set(),
    "untrusted": {"errors"},
    "recipe": {"errors", "sections"},
    "commented": {"recipe", "sections"},
    "tables": set(),
    "changes": {"recipe"},
    "workspace": {"disk", "errors", "recipe", "prompts", "ranks"},
    "prompts": {"errors", "recipe", "untrusted"},
    "batches": {"prompts"},
    "gradients": set(),
    "loss": {"batches", "gradients"},
    "packing": {"batches", "prompts", "row_attention"},
    "row_attention": set(),
    "dither": set(),
    "virtual": set(),
    "languages": set(),
    "guard": {"errors", "recipe"},
    "conversation": {"errors", "prompts"},
    "decoding": MIDDLE | {"models"},
    "models": MIDDLE | {"virtual", "untrusted", "dither"},
    "origin": MIDDLE | {"models"},
    "endpoint": {"errors", "sections"},
    "data": MIDDLE | {"endpoint", "languages"},
    "embeddings": {"errors", "models", "batches"},
    "report": MIDDLE,
    "ranking": MIDDLE,
    "forecast": GROUND | {"batches", "gradients", "loss", "packing", "row_attention"},
    "train": STAGE | {"forecast"},
    "evaluate": STAGE | {"languages", "guard"},
    "pipeline": STAGE | {"commented", "data", "train", "evaluate", "report"},
    "again": STAGE | {"data", "pipeline"},
    "assessments": STAGE | {"data", "evaluate", "pipeline", "ranking", "report", "study"},
    "study": STAGE | {"evaluate"},
    "launch": {"errors", "recipe", "sections"},
    "notebook": MIDDLE | {"data", "train", "evaluate", "report"},
    "chat": STAGE | {"conversation", "guard"},
    "serve": STAGE | {"conversation", "guard", "ranking", "report"},
    "export": STAGE,
    "checkup": {"environment", "models"},
    "cli": {
        "again",
        "assessments",
        "chat",
        "checkup",
        "endpoint",
        "errors",
        "export",
        "guard",
        "launch",
        "models",
        "pipeline",
        "ranks",
        "recipe",
        "serve",
        "sharing",
        "tables",
        "terminal",
        "workspace",
    },
    "__main__": {"cli"},
    "__init__": {"errors", "recipe", "workspace", "pipeline", "notebook"},
}
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60


def room(path: Path) -> str:
    """The room that a module stands in: a folder, or a module of its own."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Absolute names of every module that is imported anywhere in a module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_lies_below_it(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    rooms = {name.split(".")[1] for name in imported(tree) if name.startswith("residency.")}
    rooms = {name for name in rooms if (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()}
    assert rooms - {room(path)} <= ALLOWED[room(path)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_and_no_function_needs_scrolling(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


def test_data_and_report_never_import_torch() -> None:
    code = (
        "import sys, residency.data, residency.report, residency.pipeline\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom residency.cli import app\n"
        "heavy = {'torch', 'transformers', 'polars', 'matplotlib', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
