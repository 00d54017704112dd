"""What a disk does to a run folder: it may be full or read-only, and a kill leaves halves behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from residency.errors import UserError

LEFT = re.compile(r"\..+\.(partial|old)(\..+)?")  # what a killed process leaves beside what it was writing
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # the disk takes no more, whatever is written
DENIED = {errno.EACCES, errno.EPERM}
WRITABLE = "a folder that can be written to"


def refuses(error: OSError, folder: Path) -> bool:
    """Whether an error is the disk's, or the folder's, that take nothing; a file elsewhere may not be readable."""
    own = str(error.filename or "").startswith(str(folder))
    return _number(error) in FULL or (error.errno in DENIED and own)


def reason(error: OSError) -> str:
    """The system's word for what it refuses."""
    number = _number(error)
    return os.strerror(number) if number else str(error)


def _number(error: OSError) -> int | None:
    """The system's number of an error; copying a folder gathers its errors, of which only the texts are left."""
    if not isinstance(error, shutil.Error):
        return error.errno
    return next((number for number in FULL if f"[Errno {number}]" in str(error)), None)


def cant_write(folder: Path, reason: str, expected: str = WRITABLE, fix: str = "") -> UserError:
    """The error for a run folder that takes nothing more; `reason` is the system's."""
    return UserError(f"run folder {folder}: can't be written to ({reason})", expected, fix)


def clear(folder: Path) -> None:
    """Remove what killed processes left half-written, at any depth."""
    for path in sorted(folder.rglob(".*")):
        if LEFT.fullmatch(path.name):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, or nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or a folder with all in it, written to the disk itself."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        else:
            sync_folder(file)
    if path.is_dir():
        sync_folder(path)


def sync_folder(path: Path) -> None:
    """A file's name is written with its folder, and is lost with it when the power goes; Windows has no such call."""
    if os.name != "nt":
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
