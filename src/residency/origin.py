"""What a stage is made from: its inputs by their sha256, the seed, and the versions that it ran under."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from residency import environment, models
from residency.errors import listed
from residency.recipe import ModelSection
from residency.workspace import sha256

SUFFIXES = {
    ".safetensors",
    ".bin",
    ".json",
    ".txt",
    ".model",
    ".jinja",
    ".gguf",
    ".py",
}  # that a base model is read from
SHOWN = 12  # digits of a hash in a message


def made_from(inputs: Mapping[str, str], seed: int) -> dict[str, Any]:
    """What a stage notes of itself, for the manifest: `inputs`, `seed`, `versions`, the machine's name among them."""
    return {"inputs": dict(inputs), "seed": seed, "versions": environment.describe()}


def of_model(section: ModelSection) -> dict[str, str]:
    """The sha256 of each file of a base model, as they lie on this machine; none where it does not. Fetches nothing."""
    return {f"{section.base}/{name}": sha256(path) for name, path in _files(section).items()}


def differences(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for each input that is another one now, or gone, or new."""
    found = []
    for name in sorted({*was, *now}):
        before, after = (side.get(name, "") for side in (was, now))
        if before != after:
            found.append(f"{name}: was {before[:SHOWN] or 'not there'}, is {after[:SHOWN] or 'not there'}")
    return found


def said(found: list[str]) -> str:
    """Differences in one line."""
    return listed(found, 4)


def _files(section: ModelSection) -> dict[str, Path]:
    path = Path(section.base).expanduser()
    if section.base in models.BUILT_IN:
        path = models.cache_folder() / section.base
    elif path.is_file():
        return {path.name: path}
    elif not path.exists():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(section.base, "config.json", revision=section.revision)
        path = Path(cached).parent if isinstance(cached, str) else path
    inside = sorted(path.iterdir()) if path.is_dir() else []
    return {file.name: file for file in inside if file.is_file() and file.suffix in SUFFIXES}
