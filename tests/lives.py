"""A warm process that starts commands as forks of itself and has them die at chosen moments.

Starting Python with torch takes seconds, a fork none. Each line of standard input is a life, as JSON: `argv` of the
command, the `folder` of the run, and how it dies. One line of JSON comes back: how it ended, and what it left.

A moment is a file operation in the run folder or an event of training; `die` counts them from 1. `torn` also leaves
half a line in the metrics, or half of the file that was being written, as a kill in a write does. `limit` is the
largest file in bytes from step `from` on, or from the beginning. `memory` and `signal` are steps at which memory runs
out, or SIGTERM comes; `back` is the moment at which the clock goes back by a day. `warm.Lives` is the other side.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import peft  # noqa: F401  # what the command imports is warm in each life
import torch
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import TrainerCallback

import residency.data.prepare
import residency.evaluate
import residency.terminal  # noqa: F401
from residency.cli import app
from residency.train import checkpoints
from residency.train.trainer import ResidencyTrainer

with contextlib.suppress(ImportError):  # an extra
    import trl.trainer.dpo_trainer  # noqa: F401

FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir"}
PATIENCE = 240  # seconds of a life, on a machine with others at work
CLOCK = ("seconds", "step_seconds", "tokens_per_second")


class Life(TrainerCallback):
    """Counts moments and ends the process at one of them."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self.wish, self.moments, self.folder = wish, 0, str(wish["folder"])
        self.writing: tuple[Path, int] | None = None  # the file that was opened last, to be written, and its size then

    def moment(self) -> None:
        self.moments += 1
        if self.moments == self.wish.get("back"):
            clock = time.time
            time.time = lambda: clock() - 86_400
        if self.moments == self.wish.get("die"):
            if self.wish.get("torn"):
                self.tear()
            os.kill(os.getpid(), signal.SIGKILL)

    def tear(self) -> None:
        """What a kill in the middle of a write leaves: the rest of it is missing."""
        if self.writing and self.writing[0].is_file():
            path, before = self.writing
            os.truncate(path, before + (path.stat().st_size - before) // 2)
        elif self.wish["argv"][0] == "train" and not (Path(self.folder) / "train.json").exists():
            with (Path(self.folder) / "metrics.jsonl").open("a") as file:
                file.write('{"step": 3, "lo')

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILES and arguments and str(arguments[0]).startswith(self.folder):
            self.moment()
            path, mode = Path(str(arguments[0])), str(arguments[1]) if event == "open" else ""
            if mode == "rb+":
                return  # to be synced: it may still be torn
            self.writing = (path, self.size(path) if "a" in mode else 0) if mode[:1] in ("w", "a") else None

    @staticmethod
    def size(path: Path) -> int:
        return path.stat().st_size if path.is_file() else 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.moment()
        step = state.global_step + 1
        if step == self.wish.get("from"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.wish["limit"], resource.RLIM_INFINITY))
        if step == self.wish.get("memory"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if step == self.wish.get("signal"):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.moment()

    def on_evaluate(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.moment()


def live(wish: dict[str, Any], result: Path) -> None:
    """The command in this process, which may not survive it."""
    torch.set_num_threads(1)
    life, errors = Life(wish), io.StringIO()
    keep_optimizer(Path(wish["folder"]))
    real = ResidencyTrainer.__init__

    def watched(self: Any, **options: Any) -> None:
        real(self, **options)
        self.add_callback(life)

    ResidencyTrainer.__init__ = watched  # type: ignore[assignment]
    sys.addaudithook(life.hear)
    if "limit" in wish and "from" not in wish:
        resource.setrlimit(resource.RLIMIT_FSIZE, (wish["limit"], resource.RLIM_INFINITY))
    code: Any = 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            app(wish["argv"])
        except SystemExit as leaving:
            code = leaving.code or 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    result.write_text(json.dumps({"code": code, "moments": life.moments, "errors": errors.getvalue()}))


def keep_optimizer(folder: Path) -> None:
    """Note the optimizer's state of the last checkpoint before the checkpoints go."""
    real = checkpoints.discard

    def noting(checkpoint: Path) -> None:
        if checkpoint.name == checkpoints.FOLDER and (newest := checkpoints.newest(checkpoint)):
            noted = {name: digest(newest / name) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")}
            folder.with_suffix(".optimizer").write_text(json.dumps(noted))
        real(checkpoint)

    checkpoints.discard = noting


def digest(file: Path) -> str:
    """A hash of what is in a file of torch's, tensors to the bit."""
    hashed = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                hashed.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for part in value:
                add(part)
        elif hasattr(value, "numpy"):
            hashed.update(value.numpy().tobytes())
        elif hasattr(value, "tobytes"):
            hashed.update(value.tobytes())
        else:
            hashed.update(str(value).encode())

    add(torch.load(file, weights_only=False))
    return hashed.hexdigest()


def ended(folder: Path) -> dict[str, Any]:
    """What a finished training is compared by: nothing that depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    report = json.loads((folder / "train.json").read_text())
    return {
        "weights": hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "optimizer": json.loads(folder.with_suffix(".optimizer").read_text()),
        "metrics": [{key: value for key, value in row.items() if key not in CLOCK} for row in rows],
        "report": {key: report[key] for key in ("steps", "best_step", "best_value", "averaged", "total_tokens")},
    }


def waited(child: int) -> int:
    """The child's status as the shell would say it: its exit code, or minus the signal that killed it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


def main() -> None:
    gc.freeze()  # or each life would go through all that was imported
    for line in sys.stdin:
        wish = json.loads(line)
        folder = Path(wish["folder"])
        result = Path(tempfile.gettempdir()) / f"life-{os.getpid()}.json"  # the folder's disk may be full
        result.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            try:
                live(wish, result)
            except BaseException:
                traceback.print_exc()
                os._exit(70)
            os._exit(0)
        answer: dict[str, Any] = {"status": waited(child)}
        if result.exists():
            answer |= json.loads(result.read_text())
        if wish.get("compare"):
            answer["ended"] = ended(folder)
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
