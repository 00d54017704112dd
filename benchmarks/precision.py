"""Whether speed is bought with learning: the same training in float32 with plain layers, and as Residency does it.

    python benchmarks/precision.py                         full fine-tuning, three seeds, 20 steps
    python benchmarks/precision.py --method lora --steps 40

Rows, their order, validation rows and schedule are those of the built-in recipe, the same in both; only the seed of the
training changes. Both are judged by one function, in float32 on all validation rows. Prints for each seed the loss of
both and how far apart they are, beside how far apart seeds are: a difference within the latter is noise.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from residency import environment, models
from residency.batches import collate
from residency.loss import token_losses
from residency.train.setup import examples_of
from residency.workspace import Run

WAYS = {"fp32": ("train.precision=fp32", "train.compile=false"), "bf16": ("train.precision=bf16", "train.compile=true")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("full", "lora"), default="full", help="what learns")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of 16 examples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the training")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override of the recipe doctor")
    arguments = parser.parse_args()
    rate = {"full": "2e-5", "lora": "1e-3"}[arguments.method]
    shared = [f"train.method={arguments.method}", f"train.learning_rate={rate}", f"train.max_steps={arguments.steps}"]
    shared += ["train.examples_per_step=16", f"train.evaluate_every={arguments.steps}", *arguments.overrides]
    losses: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in arguments.seeds:
        for way, own in WAYS.items():
            losses[way].append(trained([*shared, *own, f"train.seed={seed}"]))
            print(f"seed {seed}, {way}: {losses[way][-1]:.5f}", file=sys.stderr, flush=True)
    table(losses, arguments)


def trained(settings: list[str]) -> float:
    """The validation loss (nats) that a training from the built-in model ends with."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        flags = [part for setting in settings for part in ("--set", setting)]
        for stage in ("prepare", "train"):
            command = [sys.executable, "-m", "residency", stage, "doctor", "--out", str(run), *flags]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        return judged(Run.open(run))


def judged(run: Run) -> float:
    """Mean cross-entropy (nats) of the validation answers' tokens under the run's tuned model, in float32."""
    recipe = run.load_recipe([])
    model, prompt = models.load_tuned(run.path("model")), models.load_prompt(recipe)
    _, validation = examples_of(recipe, run, prompt)
    with torch.no_grad():
        losses = [token_losses(model, collate([example], 0))[0] for example in validation]
    return float(torch.cat(losses).mean())


def table(losses: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    apart = [bf16 - fp32 for fp32, bf16 in zip(losses["fp32"], losses["bf16"], strict=True)]
    print(f"### {arguments.method}, {arguments.steps} steps of 16, {datetime.date.today().isoformat()}\n")
    about = environment.describe()
    print(f"{about['machine']}; torch {about['torch']}, transformers {about['transformers']}.\n")
    print("| seed | fp32, plain layers | bf16, compiled layers | apart |\n| --- | --- | --- | --- |")
    for seed, one, other, gap in zip(arguments.seeds, losses["fp32"], losses["bf16"], apart, strict=True):
        print(f"| {seed} | {one:.5f} | {other:.5f} | {gap:+.5f} |")
    print(f"| mean | {statistics.mean(losses['fp32']):.5f} | {statistics.mean(losses['bf16']):.5f} | ", end="")
    print(f"{statistics.mean(apart):+.5f} |")
    if len(apart) > 1:
        print(f"\nSeeds are {statistics.stdev(losses['fp32']):.5f} apart in fp32 (standard deviation).", end=" ")
        error = statistics.stdev(apart) / len(apart) ** 0.5
        print(f"The mean difference has a standard error of {error:.5f}.")


if __name__ == "__main__":
    main()
