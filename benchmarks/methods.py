"""What each training method reaches on the same 1,500 rows of MedQuAD, and what it takes: one table and one picture.

    python benchmarks/methods.py --medquad PATH/medquad.parquet     trains every method; goes on where it was

Let nothing else run: its minutes are part of the table.

Negative log-likelihoods are of the held-out answers, in float32, with a paired 95% interval of the difference to the
base model. Prints a Markdown table with machine, versions and date, and writes `methods.png` beside the runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ATTENTION = '["q_proj", "k_proj", "v_proj", "o_proj"]'
# Each at a learning rate usual for it; LoRA at that of the recipe.
METHODS: dict[str, tuple[str, ...]] = {
    "full": ("method=full", "learning_rate=2e-4"),
    "full, Muon": ("method=full", "optimizer=muon", "learning_rate=5e-4"),
    "full, Muon, 2e-3": ("method=full", "optimizer=muon", "learning_rate=2e-3"),
    "full, Adafactor": ("method=full", "optimizer=adafactor", "learning_rate=2e-4"),
    "freeze, last 6 layers": ("method=freeze", "freeze.train_last=6", "learning_rate=5e-4"),
    "LoRA, attention": ("method=lora", f"lora.targets={ATTENTION}"),
    "LoRA, every linear layer": ("method=lora",),
    "rsLoRA, attention": ("method=lora", f"lora.targets={ATTENTION}", "lora.variant=rslora", "learning_rate=5e-4"),
    "DoRA, attention": ("method=lora", f"lora.targets={ATTENTION}", "lora.variant=dora"),
    "PiSSA, attention": ("method=lora", f"lora.targets={ATTENTION}", "lora.variant=pissa", "learning_rate=5e-4"),
    "QLoRA, attention": ("method=qlora", f"lora.targets={ATTENTION}"),
    "IA3": ("method=ia3", "learning_rate=2e-2"),
    "prompt tuning, 20 tokens": ("method=prompt-tuning", "learning_rate=2e-2"),
}
COMMON = ("rows=1500", "max_length=256", "epochs=1", "examples_per_step=16", "learning_rate=2e-3", "evaluate_every=11")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--medquad", type=Path, required=True, help="the data set's Parquet file")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="only these")
    parser.add_argument("--table", action="store_true", help="only make the table of what is there")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="where the runs are put")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)  # one finished run, in a process of its own
    arguments = parser.parse_args()
    if arguments.score:
        score(arguments.score, arguments.out)
        return
    if not arguments.table:
        prepared = arguments.out / "data"
        if not (prepared / "data" / "report.json").is_file():
            residency("prepare", arguments.medquad, prepared, ())
        for name in arguments.methods:
            learn(name, arguments, prepared)
    table(arguments.out, arguments.methods)


def residency(command: str, medquad: Path, folder: Path, train: tuple[str, ...]) -> None:
    sections = {"rows": "data.rows", "max_length": "model.max_length"}
    settings = [f"data.source={medquad}"]
    for setting in (*COMMON, *train):
        key, value = setting.split("=", 1)
        settings.append(f"{sections.get(key, 'train.' + key)}={value}")
    flags = [part for setting in settings for part in ("--set", setting)]
    recipe = str(ROOT / "benchmarks" / "methods.yaml")
    subprocess.run([sys.executable, "-m", "residency", command, recipe, "--out", str(folder), *flags], check=True)


def learn(name: str, arguments: Any, prepared: Path) -> None:
    """One method from the prepared data to its scores; what is there already stays."""
    folder = folder_of(arguments.out, name)
    if not (folder / "train.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder)
        residency("train", arguments.medquad, folder, METHODS[name])
    if not (folder / "score.json").is_file():
        command = [sys.executable, __file__, "--medquad", str(arguments.medquad), "--out", str(arguments.out)]
        subprocess.run([*command, "--score", str(folder)], check=True)


def folder_of(out: Path, name: str) -> Path:
    return out / "".join(c if c.isalnum() else "-" for c in name.lower()).replace("--", "-")


def score(folder: Path, out: Path) -> None:
    """Likelihoods of the held-out answers under a run's model and, once, under the base."""
    import torch

    from residency import models
    from residency.evaluate.answers.generate import likelihoods
    from residency.prompts import Prompt
    from residency.workspace import Run

    run = Run.open(folder)
    recipe = run.load_recipe(())
    prompt = Prompt.build(recipe.prompt, models.load_tokenizer(recipe.model))
    limit = recipe.model.max_length
    examples = [prompt.answer_example(d.question, d.answer, limit, d.before) for d in run.dialogues("test")]
    base = out / "base.json"
    if not base.is_file():
        base.write_text(json.dumps(likelihoods(models.load_base(recipe.model, torch.float32), examples)), "utf-8")
    tuned = likelihoods(models.load_tuned(folder / "model", torch.float32), examples)
    (folder / "score.json").write_text(json.dumps(tuned), "utf-8")


def table(out: Path, names: list[str]) -> None:
    from residency.evaluate.scores import score as statistics

    base = json.loads((out / "base.json").read_text("utf-8"))
    draws, weights = statistics.resample(len(base), 2000), [float(tokens) for _, tokens in base]
    print(
        "| method | learnt weights | learning rate | answer NLL, nats a token | less than the base, 95% interval "
        "| tokens a second | training, min | peak memory, GiB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    curves: dict[str, list[tuple[int, float]]] = {}
    environment: dict[str, str] = {}
    mean = sum(nll for nll, _ in base) / sum(weights)
    print(f"| the base model | | | {mean:.3f} | | | | |")
    for name in names:
        folder = folder_of(out, name)
        if not (folder / "score.json").is_file():
            continue
        train = json.loads((folder / "train.json").read_text("utf-8"))
        environment = train["environment"]
        tuned = json.loads((folder / "score.json").read_text("utf-8"))
        per_token = [[nll / tokens for nll, tokens in system] for system in (tuned, base)]
        gain = statistics.difference(per_token[0], per_token[1], draws, weights)
        rate = next((part[14:] for part in METHODS[name] if part.startswith("learning_rate=")), "2e-3")
        print(
            f"| {name} | {train['summary']['trainable']:,} | {rate} | {mean + gain.mean:.3f} "
            f"| {gain.mean:.3f} ({gain.low:.3f} to {gain.high:.3f}) | {train['tokens_per_second']:.0f} "
            f"| {train['seconds'] / 60:.1f} | {train['peak_memory_bytes'] / 2**30:.2f} |"
        )
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        curves[name] = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
    print(f"\n{environment['machine']}; torch {environment['torch']}, transformers {environment['transformers']}; ")
    print(f"{datetime.date.today()}; {len(base)} held-out answers, {int(sum(weights)):,} tokens.")
    picture(curves, out / "methods.png")


def picture(curves: dict[str, list[tuple[int, float]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    styles = ["-", "--", ":"]
    for place, (name, points) in enumerate(sorted(curves.items(), key=lambda item: -item[1][-1][1])):
        axes.plot(*zip(*points, strict=True), styles[place // 10], marker="o", markersize=3, label=name)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("validation loss, nats an answer token")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
