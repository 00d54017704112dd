"""Experiment trackers: transformers' own, by name, and offline in the run folder unless the user says otherwise."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from residency.errors import UserError, listed, nearest

FOLDER = "trackers"
# The module that each needs, and what has it stay on this machine: environment variables, {} is the folder.
KNOWN = {
    "tensorboard": ("tensorboard", {"TENSORBOARD_LOGGING_DIR": "{}/tensorboard"}),
    "mlflow": ("mlflow", {"MLFLOW_TRACKING_URI": "sqlite:///{}/mlflow.db"}),
    "wandb": (
        "wandb",
        {"WANDB_MODE": "offline", "WANDB_DIR": "{}", "WANDB_PROJECT": "residency", "WANDB_SILENT": "true"},
    ),
    "trackio": ("trackio", {"TRACKIO_DIR": "{}/trackio"}),
}


@contextmanager
def offline(names: Sequence[str], run: Path) -> Iterator[None]:
    """Inside this block the trackers write to `trackers/` of the run folder, except where the environment says where.

    Raises:
        UserError: a name is not known, or its package is not installed.
    """
    for name in names:
        if name not in KNOWN:
            raise UserError(f"train.trackers: {name} is not known", f"some of {listed(KNOWN)}", nearest(name, KNOWN))
    folder = (run / FOLDER).resolve()
    wanted = {key: value.format(folder.as_posix()) for name in names for key, value in KNOWN[name][1].items()}
    set_here = {key: value for key, value in wanted.items() if key not in os.environ}
    if names:
        folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(set_here)
    try:
        for name in names:
            _check(KNOWN[name][0])  # now: some read their variables when they are imported
        with redirect_stdout(sys.stderr):  # some talk, and the command promises one JSON object there
            yield
    finally:
        for key in set_here:
            os.environ.pop(key, None)


def _check(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"train.trackers: {module} is not installed ({error})", fix=f"pip install {module}, or leave it out"
        ) from None
