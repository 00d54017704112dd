"""The built-in base model on full public benchmarks, beside what lm-eval gave for the model before it was quantised.

    python benchmarks/public_benchmarks.py --data PATH/benchmarks --tasks arc_easy,arc_challenge,hellaswag --out DIR
    python benchmarks/public_benchmarks.py --data PATH/benchmarks --tasks arc_easy --rounded-again 1 --out DIR

The second asks what rounding to 4 bits costs: every weight that was rounded gets an error of the same size once more,
at random and without regard to the first. What is lost between the two is what the first may have cost, since small
errors cost in proportion to their variance, which this doubles; `--variance 3` adds three times as much.

Stopped, it goes on where it was. Prints a Markdown table; docs/benchmarks.md has the layout of the folder.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from rich.console import Console

from residency import models
from residency.assessments.benchmark import Asked, benchmark
from residency.recipe import Recipe
from residency.terminal import Terminal
from residency.workspace import Run

# SmolLM2-135M-Instruct in its own weights, 0-shot, by lm-eval:
# https://huggingface.co/lldois/SmolLM2-135M-Reasoning-SLERP-Champion, the column "Baseline".
PUBLIC = {("arc_challenge", "acc_norm"): 0.2773, ("arc_easy", "acc"): 0.5412, ("hellaswag", "acc_norm"): 0.4299}

BLOCK, LEVELS = 32, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the questions; else from the hub")
    parser.add_argument("--tasks", default="arc_easy,arc_challenge,hellaswag", help="lm-eval's names")
    parser.add_argument("--out", type=Path, default=Path("runs/public-benchmarks"), help="run folder for the results")
    parser.add_argument("--limit", type=int, help="a quick look: only the first questions")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounded-again", type=int, metavar="SEED", help="with rounding errors a second time")
    parser.add_argument("--variance", type=float, default=1.0, help="of these errors, in those of one rounding")
    arguments = parser.parse_args()
    recipe = Recipe.load(None)
    if arguments.rounded_again is not None:
        folder = arguments.out.with_name(f"{arguments.out.name}-model")
        rounded_again(recipe, folder, arguments.rounded_again, arguments.variance)
        recipe = Recipe.load(None, [f"model.base={folder}"])
    Run.create(arguments.out, recipe)
    terminal = Terminal(Console(stderr=True, highlight=False))
    names = tuple(arguments.tasks.split(","))
    asked = Asked(names, arguments.data, arguments.limit, systems=("base",), precision=arguments.precision)
    found = benchmark(arguments.out, asked, terminal)
    terminal.close()
    print("\n".join(table(found)))


def rounded_again(recipe: Recipe, folder: Path, seed: int, variance: float) -> None:
    """The built-in model with another rounding error on every weight that is one of 16 steps within its block.

    A block of Q4_1 is 32 weights of a row, on 16 evenly spaced levels; an error is uniform over one step, or over as
    many as make `variance` times its variance.
    """
    model, generator = models.load_base(recipe.model), torch.Generator().manual_seed(seed)
    changed = total = 0
    for weight in model.parameters():
        total += weight.numel()
        if weight.ndim == 2 and weight.shape[1] % BLOCK == 0:
            blocks = weight.data.view(-1, BLOCK)
            step = (blocks.amax(1, keepdim=True) - blocks.amin(1, keepdim=True)) / (LEVELS - 1)
            level = (blocks - blocks.amin(1, keepdim=True)) / step.clamp_min(1e-12)
            on_levels = ((level - level.round()).abs() < 0.01).all(1, keepdim=True)
            errors = torch.rand(blocks.shape, generator=generator) - 0.5
            blocks += on_levels * step * errors * variance**0.5
            changed += int(on_levels.sum()) * BLOCK
    print(f"{changed / total:.1%} of {total:,} weights are on {LEVELS} levels and rounded again", file=sys.stderr)
    model.save_pretrained(folder)
    models.load_tokenizer(recipe.model).save_pretrained(folder)


def table(found: dict[str, Any]) -> list[str]:
    """Every task and metric, with the public number where there is one, and how far off it is."""
    versions = f"lm-eval {lm_eval.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    lines = [
        f"{datetime.date.today()}; {platform.machine()}, {torch.get_num_threads()} threads; {versions}.",
        "",
        "| task | metric | questions | here, ± standard error | public, unquantised | difference | standard errors |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in {**found["tasks"], **found["groups"]}.items():
        quick = " (a quick look)" if entry["quick_look"] else ""
        for metric, own in entry["systems"]["base"]["metrics"].items():
            value, error = own["value"], own["stderr"] or 0.0
            cells = [f"{name}{quick}", metric, f"{entry['questions']:,}", f"{100 * value:.2f}% ± {100 * error:.2f}"]
            public = PUBLIC.get((name, metric))
            if public is None:
                cells += ["", "", ""]
            else:
                off = value - public
                cells += [f"{100 * public:.2f}%", f"{100 * off:+.2f} pp", f"{off / error:+.1f}" if error else ""]
            lines.append(f"| {' | '.join(cells)} |")
    seconds = sum(own["seconds"] for entry in found["tasks"].values() for own in entry["systems"].values())
    return [*lines, "", f"{seconds / 60:.1f} min together."]


if __name__ == "__main__":
    main()
