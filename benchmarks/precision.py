"""Whether speed is bought with learning: the same training in float32 with plain layers, and as Residency does it.

    python benchmarks/precision.py                         full fine-tuning, three seeds, 20 steps
    python benchmarks/precision.py --base-in-bf16          from weights rounded to bf16, as hubs have them
    python benchmarks/precision.py --method lora --steps 40

Rows, their order, validation rows and schedule are those of the built-in recipe, the same in all; only the seed of the
training changes. Between the two stand Residency's way without int8 in the backward pass, and without its dither too.
All are judged by one function, in float32 on all validation rows, and once more with the weights rounded to bf16, as
models are saved and loaded. Prints for each seed how far from the first way each comes, beside how far apart seeds are:
a difference within the latter is noise.
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
from published import in_bf16

from residency import environment, models
from residency.batches import collate
from residency.loss import token_losses
from residency.train.setup import examples_of
from residency.workspace import Run

BASE = "smollm2-135m-instruct"
FAST = ("train.precision=bf16", "train.compile=true")
WAYS = {
    "float32, plain layers": ("train.precision=fp32", "train.compile=false", "train.dither=false"),
    "bf16 without dither": (*FAST, "train.dither=false", "train.int8=false"),
    "bf16 with dither": (*FAST, "train.int8=false"),
    "as Residency does it": (*FAST, "train.int8=true"),
}
Losses = tuple[float, float]  # of the weights as they are, and of the same in bf16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("full", "lora"), default="full", help="what learns")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of 16 examples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the training")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override of the recipe doctor")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="the first is what others are held to"
    )
    parser.add_argument("--base-in-bf16", action="store_true", help="round the base's weights to bf16 first")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rate = {"full": "2e-5", "lora": "2e-4"}[arguments.method]
        shared = [
            f"train.method={arguments.method}",
            f"train.learning_rate={rate}",
            f"train.max_steps={arguments.steps}",
            "train.examples_per_step=16",
            f"train.evaluate_every={arguments.steps}",
            *arguments.overrides,
        ]
        if arguments.base_in_bf16:
            shared.append(f"model.base={in_bf16(BASE, Path(scratch) / 'published')}")
        losses: dict[str, list[Losses]] = {way: [] for way in arguments.ways}
        for seed in arguments.seeds:
            for way in arguments.ways:
                losses[way].append(trained([*shared, *WAYS[way], f"train.seed={seed}"]))
                found = "{:.5f}, in bf16 {:.5f}".format(*losses[way][-1])
                print(f"seed {seed}, {way}: {found}", file=sys.stderr, flush=True)
        table(losses, arguments)


def trained(settings: list[str]) -> Losses:
    """The validation losses (nats) that a training ends with."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        flags = [part for setting in settings for part in ("--set", setting)]
        for stage in ("prepare", "train"):
            command = [sys.executable, "-m", "residency", stage, "doctor", "--out", str(run), *flags]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        return judged(Run.open(run))


def judged(run: Run) -> Losses:
    """Mean cross-entropy (nats) of the validation answers' tokens under the run's tuned model, computed in float32."""
    recipe = run.load_recipe([])
    model, prompt = models.load_tuned(run.path("model")), models.load_prompt(recipe)
    _, validation = examples_of(recipe, run, prompt)

    def loss() -> float:
        return float(torch.cat([token_losses(model, collate([example], 0))[0] for example in validation]).mean())

    with torch.no_grad():
        as_it_is = loss()
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
        return as_it_is, loss()


def table(losses: dict[str, list[Losses]], arguments: argparse.Namespace) -> None:
    base = BASE + " in bf16" * arguments.base_in_bf16
    print(f"### {arguments.method}, {base}, {arguments.steps} steps of 16, {datetime.date.today().isoformat()}\n")
    about = environment.describe()
    print(f"{about['machine']}; torch {about['torch']}, transformers {about['transformers']}.\n")
    print("| validation loss | judged | " + " | ".join(f"seed {seed}" for seed in arguments.seeds), end="")
    print(" | mean | from the first | standard error |\n|" + " --- |" * (len(arguments.seeds) + 5))
    best = [found[0] for found in next(iter(losses.values()))]
    for way, found in losses.items():
        for place, view in enumerate(("as it is", "in bf16")):
            own = [pair[place] for pair in found]
            apart = [one - other for one, other in zip(own, best, strict=True)]
            error = statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
            cells = [*(f"{loss:.5f}" for loss in own), f"{statistics.mean(own):.5f}"]
            print(f"| {way} | {view} | {' | '.join(cells)} | {statistics.mean(apart):+.5f} | {error:.5f} |")
    if len(best) > 1:
        print(f"\nSeeds are {statistics.stdev(best):.5f} apart in the first way (standard deviation).")


if __name__ == "__main__":
    main()
