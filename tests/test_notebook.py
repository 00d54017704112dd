from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install -e '.[dev]'")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install -e '.[dev]'")
pytest.importorskip("ipykernel", reason="needs ipykernel: pip install -e '.[dev]'")

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "doctor.ipynb"


@pytest.fixture(scope="module")
def executed(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after every cell, with few rows and steps and a model of some thousand parameters."""
    folder = tmp_path_factory.mktemp("notebook")
    shutil.copy(NOTEBOOK, folder)
    pages = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIDENCY_NOTEBOOK_QUICK", "1")
        patch.setenv("RESIDENCY_NOTEBOOK_BASE", str(llama_folder))
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
        )
        client = nbclient.NotebookClient(pages, timeout=240, resources={"metadata": {"path": str(folder)}})
        client.execute()
    return pages


def shown(pages: Any, cell: str, kind: str) -> str:
    """What a cell shows in one form, all its outputs together."""
    found = next(one for one in pages.cells if one.id == cell)
    parts = [output.get("data", {}).get(kind, "") for output in found.outputs]
    parts += [output.get("text", "") for output in found.outputs if kind == "text/plain"]
    return "\n".join(parts)


def test_every_cell_runs_and_the_tables_are_tables(executed: Any) -> None:
    for cell in ("load", "rename", "split", "plan", "evaluate", "scores", "off-topic", "faults"):
        assert "<table" in shown(executed, cell, "text/html"), cell
    assert "read as question/answer" in shown(executed, "recognise", "text/plain")
    assert "TFLOP" in shown(executed, "plan", "text/html") and "GiB" in shown(executed, "plan", "text/html")
    assert "<|im_start|>user" in shown(executed, "template", "text/plain")


def test_progress_is_a_bar_and_the_curves_are_a_picture(executed: Any) -> None:
    html = shown(executed, "train", "text/html")
    assert 'value="4" max="4"' in html and "data:image/svg+xml" in html
    text = shown(executed, "train", "text/plain")
    assert "Training: 4 of 4" in text and "Curves up to step 4: loss" in text
    errors = [output for cell in executed.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert not any("ipywidgets" in output.text for output in errors), errors


def test_base_and_tuned_stand_side_by_side_and_the_guard_beside_them(executed: Any) -> None:
    html = shown(executed, "evaluate", "text/html")
    assert all(f">{name}</th>" in html for name in ("question", "reference", "base", "tuned"))
    assert "What do you think of Mars?" in shown(executed, "off-topic", "text/html")
    notices = shown(executed, "guard", "text/plain")
    assert all(f"[{rule}]" in notices for rule in ("off-topic", "breathing", "not-a-doctor"))


def test_the_notebook_is_kept_without_what_it_showed() -> None:
    pages = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in pages.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
