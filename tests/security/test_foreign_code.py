"""Python code that a model brings runs only where repository and commit are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from residency import models, untrusted
from residency.errors import UserError
from residency.recipe import ModelSection, Recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"base": "owner/name"}, "needs a revision"),
        ({"base": "owner/name", "revision": "main"}, "a branch or a tag can move"),
        ({"base": "owner/name", "revision": COMMIT[:12]}, "a branch or a tag can move"),
        ({"revision": COMMIT}, "name its repository"),
        ({"base": "./folder", "revision": COMMIT}, "name its repository"),
    ],
)
def test_trust_needs_repository_and_commit(model: dict[str, Any], told: str) -> None:
    raw = {"name": "x", "data": {"source": "clinic"}, "model": {"trust_remote_code": True, **model}}
    with pytest.raises(UserError, match=told):
        Recipe.parse(raw)
    raw["model"] |= {"base": "owner/name", "revision": COMMIT}
    assert Recipe.parse(raw).model.trust_remote_code


@pytest.fixture
def armed(llama_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A model whose configuration names Python code beside it, and the file that this code makes."""
    folder, mark = tmp_path / "owner" / "name", tmp_path / "it-ran"
    shutil.copytree(llama_folder, folder)
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Model: ...\nclass Config: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "unheard-of",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, mark


def test_code_beside_weights_does_not_run(armed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mark = armed
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    for load in (models.load_base, models.load_config):
        with pytest.raises(UserError, match="can't be loaded"):
            load(ModelSection(base=str(folder)))
    with pytest.raises(ValueError, match="trust_remote_code"):
        models.load_tuned(folder)
    assert not mark.exists()


def test_a_folder_that_looks_like_a_repository_is_not_trusted(
    armed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = armed
    monkeypatch.chdir(folder.parents[1])
    with pytest.raises(UserError, match="is a folder, and no revision says what code lies in it"):
        models.load_base(ModelSection(base="owner/name", revision=COMMIT, trust_remote_code=True))
    assert not mark.exists()


def test_the_commit_holds_for_code_of_another_repository_too() -> None:
    assert untrusted.options_of_code(True, COMMIT, "owner/name")["code_revision"] == COMMIT
    assert untrusted.options_of_code(False, None, "owner/name") == {"trust_remote_code": False}
