"""Disks that fill up or take nothing: a small tmpfs where the tests may mount one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(at: Path, megabytes: int) -> Iterator[Path | None]:
    """A file system of its own in memory; None where none can be mounted."""
    at.mkdir()
    if not mounted("-t", "tmpfs", "-o", f"size={megabytes}m", "residency-test", str(at)):
        yield None
        return
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@contextmanager
def read_only(folder: Path, disk: Path | None) -> Iterator[bool]:
    """A folder that takes nothing: its disk is mounted anew as read-only, or its rights are taken; whether it could."""
    if disk is not None:
        assert mounted("-o", "remount,ro", str(disk))
    elif os.geteuid() == 0:
        yield False
        return
    else:
        folder.chmod(0o555)
    try:
        yield True
    finally:
        if disk is not None:
            assert mounted("-o", "remount,rw", str(disk))
        else:
            folder.chmod(0o755)


def fill(disk: Path, leave: int) -> Path:
    """A file that takes the rest of a disk but for so many bytes."""
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(b"\0" * max(free - leave, 0))
    return filler


def mounted(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
