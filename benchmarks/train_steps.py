"""What each way of going through a training step is worth: all of them on the same steps in one process, in turns.

    python benchmarks/train_steps.py                               full fine-tuning of the built-in model
    python benchmarks/train_steps.py --method lora --ways plain:1024 fused:1024 compiled:1024 compiled:2048
    python benchmarks/train_steps.py --profile compiled:2048       also where a step's time goes

A way is what is done and how many tokens go through at once: `plain` (head and cross-entropy apart), `fused` (both in
one, the logits in pieces), `compiled` (fused, the layers by torch.compile), `packed` (compiled, rows end to end),
`in-place` (packed, gradients of embeddings and head added where they are), `int8` (in-place, products of the layers'
backward pass in 8-bit integers), `scratch` (int8, logits kept mapped). Each is a model of its own in memory. The
optimizer and the clipping are the same. Ratios are to the first way, step by step.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from residency import environment, models, pipeline
from residency.batches import collate, cut
from residency.forecast.speed import matrix_product_speed
from residency.gradients import Scratch, added_in_place
from residency.loss import summed_loss, token_losses
from residency.packing import attention_for
from residency.progress import Silent
from residency.recipe import Recipe
from residency.train.compiled import CompiledLayers
from residency.train.packed import Packing
from residency.train.setup import Setup, build_model, examples_of, setup_of
from residency.workspace import Run

WAYS = ("plain", "fused", "compiled", "packed", "in-place", "int8", "scratch")  # each has what those before it have
WARM = 2  # steps before the measured ones


class Way:
    """One way of going through a step, with its own model and optimizer."""

    def __init__(self, name: str, recipe: Recipe, setup: Setup) -> None:
        kind, _, tokens = name.partition(":")
        self.name, self.kind, self.tokens, self.bf16 = name, kind, int(tokens), setup.precision == "bf16"
        self.model = build_model(recipe, setup, Silent()).train()
        self.learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learning, lr=1e-4, fused=True)
        self.compiles, self.packs, self.adds, int8, keeps = (WAYS.index(kind) >= place for place in range(2, 7))
        self.scratch = Scratch() if keeps else None
        self.layers = CompiledLayers(self.model, print, bf16=self.bf16, int8=int8) if self.compiles else None
        self.packing = Packing(self.model, print) if self.packs else None
        self.speeds: list[float] = []
        self.losses: list[float] = []

    def step(self, examples: list[Any]) -> None:
        """Forward, backward and update over some examples; the clock is read around all of it."""
        started, total = time.perf_counter(), sum(example.learnt for example in examples)
        summed = 0.0
        for places in cut([len(example) for example in examples], self.tokens):
            batch = collate([examples[place] for place in places], 0)
            width = batch["input_ids"].shape[1]
            self.model.config._attn_implementation = attention_for(self.model.config, width, packs=self.packs)
            packed = self.packing.on(batch) if self.packing else nullcontext(batch)
            with packed as rows, added_in_place(self.model, self.scratch) if self.adds else nullcontext():
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                    loss = self.loss(rows) / total
                loss.backward()
            summed += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.speeds.append(sum(map(len, examples)) / (time.perf_counter() - started))
        self.losses.append(summed)

    def loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """Summed over the batch's answer tokens."""
        if self.kind == "plain":
            return token_losses(self.model, batch)[0].sum()
        if self.layers is None:
            return summed_loss(self.model, batch)
        with self.layers.on(batch):
            return summed_loss(self.model, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="full", help="what learns")
    parser.add_argument("--ways", nargs="+", default=["plain:1024", "fused:1024", "compiled:1024", "compiled:2048"])
    parser.add_argument("--examples", type=int, default=16, help="of a step")
    parser.add_argument("--steps", type=int, default=3, help="measured ones")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override of the recipe doctor")
    parser.add_argument("--profile", nargs="*", default=[], help="ways whose operations are printed too")
    arguments = parser.parse_args()
    environment.keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.load("doctor", [*arguments.overrides, f"train.method={arguments.method}"])
        pipeline.prepare(recipe, Path(folder), Silent())
        examples = list(examples_of(recipe, Run.open(folder), models.load_prompt(recipe))[0])
    setup = setup_of(recipe, [*map(len, examples)])
    steps = [examples[start : start + arguments.examples] for start in range(0, len(examples), arguments.examples)]
    ways = [Way(name, recipe, setup) for name in arguments.ways]
    for way in ways:
        for number in range(WARM):
            way.step(steps[number])
    for number in range(WARM, WARM + arguments.steps):
        for way in ways:
            way.step(steps[number])
    print("| way: tokens at once | tokens/s | against the first | loss of the last step |\n| --- | --- | --- | --- |")
    for way in ways:
        ratios = [own / first for own, first in zip(way.speeds[WARM:], ways[0].speeds[WARM:], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {way.name} | {statistics.median(way.speeds[WARM:]):.0f} | {spread} | {way.losses[-1]:.4f} |")
    product = matrix_product_speed(torch.bfloat16, torch.device("cpu")) / 1e9
    print(
        f"\n{arguments.method}, {recipe.model.base}, {recipe.data.source}, {arguments.steps} steps of "
        f"{arguments.examples}; {environment.describe()['machine']}, {torch.get_num_threads()} threads, a matrix "
        f"product in bf16 {product:.0f} GFLOP/s; torch {torch.__version__}; {datetime.date.today().isoformat()}."
    )
    for way in ways:
        if way.name in arguments.profile:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                way.step(steps[1])
            print(f"\n{way.name}\n" + profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


if __name__ == "__main__":
    main()
