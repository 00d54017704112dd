"""Whether this machine has what Residency needs: what is there, what is missing, and the command that brings it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from residency import environment, models

LITTLE_MEMORY, LITTLE_DISK = 6 * 2**30, 5 * 2**30  # bytes; what the built-in run takes is below both
OWN = "residency"


@dataclass(frozen=True)
class Look:
    """One thing looked at: its name, what was found, and what to do where that is not enough (else empty)."""

    name: str
    found: str
    advice: str = ""


def checkup() -> list[Look]:
    """Machine, versions, device, memory, disk, caches and extras; fetches nothing and changes nothing."""
    described = environment.describe()
    looks = [Look(name, found) for name, found in described.items() if name in ("machine", "system", OWN)]
    looks += [_library(requirement) for requirement in _needed()]
    return [*looks, _device(), _compiler(), _memory(), *_caches(), *(_extra(name) for name in _extras())]


def as_dict(looks: list[Look]) -> dict[str, Any]:
    """For JSON."""
    return {one.name: {"found": one.found, "advice": one.advice} for one in looks}


def _needed(extra: str = "") -> list[Requirement]:
    """What the package declares: always, or under an extra alone."""
    found = [Requirement(text) for text in requires(OWN) or ()]
    if not extra:
        return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
    with_it = [one for one in found if one.marker and one.marker.evaluate({"extra": extra})]
    return [one for one in with_it if not (one.marker and one.marker.evaluate({"extra": ""}))]


def _library(requirement: Requirement) -> Look:
    have = _version(requirement.name)
    if have is None:
        return Look(requirement.name, "not installed", f"pip install '{_plain(requirement)}'")
    fits = requirement.specifier.contains(have, prereleases=True)
    return Look(requirement.name, have, "" if fits else f"pip install '{_plain(requirement)}'")


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> Look:
    import torch

    where = models.device()
    bf16 = "bf16 in hardware" if models.computes_bf16() else "no bf16 in hardware: float32, which is slower"
    if where.type == "cuda":
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Look("device", f"{torch.cuda.get_device_name(0)}, {gigabytes:.0f} GiB, {bf16}")
    return Look("device", f"CPU, {torch.get_num_threads()} threads, {bf16}")


def _compiler() -> Look:
    found = environment.compiler()
    return Look(
        "compiler", found or "no C++ compiler", "" if found else "install g++ or clang++: long trainings get faster"
    )


def _memory() -> Look:
    free = environment.available_memory()
    advice = "" if free >= LITTLE_MEMORY else "`residency plan` says what a recipe takes; close other programs"
    return Look("memory", f"{free / 2**30:.1f} GiB free", advice)


def _caches() -> list[Look]:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = models.cache_folder()
    kept = [name for name in models.BUILT_IN if (folder / name / "config.json").is_file()]
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    short = "free some disk, or set RESIDENCY_CACHE to another folder" if free < LITTLE_DISK else ""
    hub = Path(HF_HUB_CACHE)
    held = len([path for path in hub.glob("models--*") if path.is_dir()]) if hub.is_dir() else 0
    return [
        Look("cache", f"{folder}, {', '.join(kept) or 'no built-in model yet: fetched on first use'}"),
        Look("disk", f"{free / 2**30:.0f} GiB free there", short),
        Look("hub cache", f"{hub}, {held} models"),
    ]


def _extras() -> list[str]:
    return [name for name in metadata(OWN).get_all("Provides-Extra") or [] if name != "dev"]


def _extra(name: str) -> Look:
    missing = [one.name for one in _needed(name) if _library(one).advice]
    found = f"not here: {', '.join(missing)}" if missing else "here"
    return Look(f"[{name}]", found, f"pip install '{OWN}[{name}]', where it is wanted" if missing else "")
