"""One training by one system, in the environment that it is installed in: what `train_speed.py` starts.

    python benchmarks/train_peer.py SYSTEM GIVEN.json FOUND.json

GIVEN holds the model's folder, rows of tokens, and how to train; FOUND gets the seconds of each optimizer step, those
before the first, the peak of memory, and the loss on the validation rows. Nothing here, nor in the files of the peers,
imports Residency but its own function, so that it runs in any of the environments.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

BEGUN = time.perf_counter()

import peers_on_trainer  # noqa: E402  (the clock runs from the process's start)
import peers_with_loops  # noqa: E402
from peer_tools import Clock, Given, Losses, validated  # noqa: E402


def main() -> None:
    system, given_file, found_file = sys.argv[1:4]
    given = json.loads(Path(given_file).read_text("utf-8"))
    clock = Clock()
    losses = SYSTEMS[system](given, clock)
    begins = [clock.first_begun, *clock.ends[:-1]]
    found = losses | {
        "to_first_step": clock.ends[0] - BEGUN,
        "seconds": [end - begin for begin, end in zip(begins, clock.ends, strict=True)],
        "peak_bytes": clock_peak(),
    }
    Path(found_file).write_text(json.dumps(found), "utf-8")


def clock_peak() -> int:
    """Bytes that the process held at most; the evaluation of the loss comes after and is no larger."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def residency(given: Given, clock: Clock, compile: bool = True, settings: Sequence[str] = ()) -> Losses:
    """`residency train` on the run that the rows were taken from."""
    from residency.models import load_prompt
    from residency.recipe import Recipe
    from residency.train import fit
    from residency.workspace import RECIPE, Run

    run = Run.open(given["run"])
    overrides = [*given["settings"], f"train.compile={json.dumps(compile)}", *settings]
    recipe = Recipe.load(run.folder / RECIPE, overrides)  # and not the run's own way, which keeps them for the next
    kept: dict[str, Any] = {}
    fit._save = lambda trainer, *_: kept.setdefault("model", trainer.model) and None  # nothing is merged or written
    fit.train(recipe, run, load_prompt(recipe), callbacks=[clock.callback()])
    return validated(kept["model"], given)


SYSTEMS: dict[str, Callable[[Given, Clock], Losses]] = {
    "tutorial": peers_on_trainer.tutorial,
    "tutorial-bf16": peers_on_trainer.tutorial_bf16,
    "trl": peers_on_trainer.trl,
    "trl-best": peers_on_trainer.trl_best,
    "trl-packed": peers_on_trainer.trl_packed,
    "litgpt": peers_with_loops.litgpt,
    "llamafactory": peers_on_trainer.llamafactory,
    "torchtune": peers_with_loops.torchtune,
    "torchtune-compiled": partial(peers_with_loops.torchtune, compile=True),
    "torchtune-fp32": partial(peers_with_loops.torchtune, dtype="fp32"),
    "residency": residency,
    "residency-plain": partial(residency, compile=False),
    "residency-lean": partial(residency, settings=("train.optimizer=adafactor", "train.tokens_per_batch=512")),
}


if __name__ == "__main__":
    main()
