"""A warm process that starts trainings in several processes as forks of itself, by torch's own elastic agent.

Starting Python with torch takes seconds for each process, a fork none. Each line of standard input is a training, as
JSON: `argv` of the command, how many `ranks` (0: no torchrun), how often they may be started anew (`restarts`), and
which one dies (`die`: its rank) in which `step`, killed between its gradients and the optimizer's step. `signal` is a
step at which rank 1 gets SIGTERM. One line comes back: exit code and standard error of each process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import peft  # noqa: F401  # what the command imports is warm in each process
import torch
import transformers.models.llama.modeling_llama  # noqa: F401
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from transformers import TrainerCallback

import residency.evaluate
import residency.terminal  # noqa: F401
from residency.cli import app
from residency.train.trainer import ResidencyTrainer


class Fate(TrainerCallback):
    """What happens to a process in a step, in its first life."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self.wish = wish
        self.lives = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        step, rank = state.global_step + 1, int(os.environ.get("RANK", "0"))
        if step == self.wish.get("step") and rank == self.wish.get("die") and not self.lives:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.wish.get("signal") and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def work(wish: dict[str, Any]) -> int:
    """The command in this process; what it says goes to a file beside the run folder."""
    torch.set_num_threads(1)
    real = ResidencyTrainer.__init__

    def watched(self: Any, **options: Any) -> None:
        real(self, **options)
        self.add_callback(Fate(wish))

    ResidencyTrainer.__init__ = watched  # type: ignore[assignment]
    rank = int(os.environ.get("RANK", "-1"))
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            app(wish["argv"])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 70
    told = Path(wish["told"])
    (told / f"{rank}.json").write_text(json.dumps({"code": code, "said": said.getvalue()}))
    return code


def alone(wish: dict[str, Any]) -> None:
    child = os.fork()
    if child == 0:
        os._exit(work(wish))
    os.waitpid(child, 0)


def together(wish: dict[str, Any]) -> str:
    """As torchrun starts them; what the agent says of a failure, without which it is empty."""
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=wish["ranks"], rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id="crew", max_restarts=wish.get("restarts", 0), monitor_interval=0.1, start_method="fork",
    )  # fmt: skip
    try:
        elastic_launch(config, entry)(wish)
    except ChildFailedError as error:
        return str(error).splitlines()[0]
    return ""


def entry(wish: dict[str, Any]) -> None:
    """A process of the agent's: it fails by its exit code, as the command does."""
    code = work(wish)
    if code:
        os._exit(code)


def main() -> None:
    for line in sys.stdin:
        wish = json.loads(line)
        told = Path(wish["told"])
        told.mkdir(parents=True, exist_ok=True)
        for file in told.glob("*.json"):
            file.unlink()
        failed = together(wish) if wish["ranks"] else alone(wish)
        answers = {path.stem: json.loads(path.read_text()) for path in sorted(told.glob("*.json"))}
        print(json.dumps({"failed": failed or "", "processes": answers}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
