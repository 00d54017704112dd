"""The built-in base model on full public benchmarks, beside what lm-eval gave for the model before it was quantised.

    python benchmarks/public_benchmarks.py --data PATH/benchmarks --tasks arc_easy,arc_challenge,hellaswag --out DIR

Stopped, it goes on where it was. Prints a Markdown table; docs/benchmarks.md has the layout of the folder.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from rich.console import Console

from residency.assessments.benchmark import Asked, benchmark
from residency.recipe import Recipe
from residency.terminal import Terminal
from residency.workspace import Run

# SmolLM2-135M-Instruct in its own weights, 0-shot, by lm-eval:
# https://huggingface.co/lldois/SmolLM2-135M-Reasoning-SLERP-Champion, the column "Baseline".
PUBLIC = {("arc_challenge", "acc_norm"): 0.2773, ("arc_easy", "acc"): 0.5412, ("hellaswag", "acc_norm"): 0.4299}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the questions; else from the hub")
    parser.add_argument("--tasks", default="arc_easy,arc_challenge,hellaswag", help="lm-eval's names")
    parser.add_argument("--out", type=Path, default=Path("runs/public-benchmarks"), help="run folder for the results")
    parser.add_argument("--limit", type=int, help="a quick look: only the first questions")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    arguments = parser.parse_args()
    Run.create(arguments.out, Recipe.load(None))
    terminal = Terminal(Console(stderr=True, highlight=False))
    names = tuple(arguments.tasks.split(","))
    asked = Asked(names, arguments.data, arguments.limit, systems=("base",), precision=arguments.precision)
    found = benchmark(arguments.out, asked, terminal)
    terminal.close()
    print("\n".join(table(found)))


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
