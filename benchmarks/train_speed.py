"""Tokens of real text a second in training: Residency and its peers, each in its own environment, in turns.

    python benchmarks/train_speed.py                              full fine-tuning, built-in model and data
    python benchmarks/train_speed.py --method lora
    python benchmarks/train_speed.py --source PATH/medquad.parquet --set data.question=question --set data.answer=answer
    python benchmarks/train_speed.py --systems tutorial residency --rounds 1 --steps 4     a first look
    python benchmarks/train_speed.py --base-in-bf16               the base's weights rounded to bf16, as hubs have them
    python benchmarks/train_speed.py --picture FILE.png           draws the table besides
    python benchmarks/train_speed.py --device cuda                where there is a GPU (never run by us)

Each peer is installed at the version below from the package index into an environment of its own under --envs, once.
All go through the same rows as tokens, with the same model, method, constant learning rate and number of optimizer
steps of as many examples; round by round one after another, so that a slow minute of the machine meets them all. Left
out of the speed is the first step, with what comes before it a column of its own: it holds compilers' work. Their loss
is taken by one function in float32 on the same validation rows, of the weights as they are and of the same in bf16. MFU
is 6 operations a parameter and token, 4 with LoRA, whose base weights get no gradient, over what a matrix product
[4096, 4096] in bf16 does, measured before each training.

Residency is the working tree in this interpreter's environment. Every row is printed as soon as its last round is done.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
ENVIRONMENTS = {
    "trl": ["trl==1.16.0", "transformers==5.23.0", "peft", TORCH],
    "litgpt": ["litgpt==0.5.13", "requests", TORCH],
    "llamafactory": ["llamafactory==0.9.5", TORCH],
    "torchtune": ["torchtune==0.6.1", "torchao==0.15.0", TORCH],
}
SYSTEMS = {  # the environment of each, and what the table calls it
    "tutorial": ("trl", "transformers Trainer as in the tutorial (fp32, 1 at a time, Adafactor)"),
    "tutorial-bf16": ("trl", "the same with bf16"),
    "trl": ("trl", "TRL SFTTrainer, defaults (bf16, 8 at a time, checkpointing)"),
    "trl-best": ("trl", "TRL, 4 at a time, no checkpointing"),
    "trl-packed": ("trl", "TRL, rows packed to 1,024 tokens, no checkpointing"),
    "litgpt": ("litgpt", "LitGPT, bf16-mixed, 4 at a time"),
    "llamafactory": ("llamafactory", "LLaMA-Factory, bf16, 4 at a time"),
    "torchtune": ("torchtune", "torchtune, full fine-tuning on one device, bf16, 4 at a time"),
    "torchtune-compiled": ("torchtune", "torchtune, the same compiled"),
    "torchtune-fp32": ("torchtune", "torchtune, the same in fp32"),
    "residency-plain": ("", "Residency, layers not compiled"),
    "residency": ("", "Residency"),
    "residency-lean": ("", "Residency, Adafactor, 512 tokens at a time"),
}
NOT_HERE = {
    "Axolotl 0.19.0": "needs a GPU",
    "Unsloth 2026.10.9": "needs a GPU",
}


def main() -> None:
    arguments = parsed()
    arguments.envs.mkdir(parents=True, exist_ok=True)
    pythons = {name: environment(name, arguments.envs) for name in {SYSTEMS[s][0] for s in arguments.systems}}
    with tempfile.TemporaryDirectory() as scratch:
        given = job(arguments, Path(scratch), pythons)
        found: dict[str, list[dict[str, Any]]] = {system: [] for system in arguments.systems}
        for number in range(arguments.rounds):
            for system in arguments.systems:
                peak = product_speed(arguments.device)
                one = trained(system, pythons[SYSTEMS[system][0]], given, Path(scratch))
                if one:
                    found[system].append(one | {"product": peak})
                    print(
                        f"round {number + 1}, {system}: {speed(one, given):.0f} tokens/s", file=sys.stderr, flush=True
                    )
        before = untrained(given)
        table(found, given, arguments, before)
        if arguments.picture:
            picture(found, given, arguments, before)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("full", "lora"), default="full", help="what learns")
    parser.add_argument("--source", default="clinic", help="data set, as in data.source")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override of the recipe doctor")
    parser.add_argument("--base", default="smollm2-135m-instruct", help="base model")
    parser.add_argument("--base-in-bf16", action="store_true", help="round the base's weights to bf16 first")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps, the first of them not measured")
    parser.add_argument("--examples-per-step", type=int, default=16, help="examples of an optimizer step")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is trained")
    parser.add_argument("--validation", type=int, default=16, help="validation rows, at most")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="only these")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where")
    parser.add_argument("--picture", type=Path, help="a file for speed and memory, drawn")
    parser.add_argument("--envs", type=Path, default=Path("runs/peers"), help="where the peers are installed")
    return parser.parse_args()


def environment(name: str, folder: Path) -> Path:
    """The interpreter of a peer's environment, made where it is not there."""
    if not name:
        return Path(sys.executable)
    python = folder / name / "bin" / "python"
    if not (folder / name / "whole").is_file():
        print(f"Installing {' '.join(ENVIRONMENTS[name])}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / name)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name]], check=True)
        (folder / name / "whole").touch()
    return python


def job(arguments: argparse.Namespace, scratch: Path, pythons: dict[str, Path]) -> dict[str, Any]:
    """The rows as tokens, and everything that a training is told."""
    from published import in_bf16

    from residency import models
    from residency.train.setup import examples_of
    from residency.train.steps import places_of
    from residency.workspace import Run

    base = in_bf16(arguments.base, scratch / "published") if arguments.base_in_bf16 else arguments.base
    settings = [
        f"train.method={arguments.method}",
        f"train.max_steps={arguments.steps}",
        f"train.examples_per_step={arguments.examples_per_step}",
        f"train.evaluate_every={arguments.steps + 1}",
        "train.learning_rate=2e-5" if arguments.method == "full" else "train.learning_rate=2e-4",
        "train.schedule=constant",
        "train.warmup=0",
        f"model.base={base}",
    ]
    run = scratch / "run"
    command = [sys.executable, "-m", "residency", "prepare", "doctor", "--out", str(run)]
    for override in [f"data.source={arguments.source}", *arguments.overrides, *settings]:
        command += ["--set", override]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    opened = Run.open(run)
    recipe = opened.load_recipe([])
    examples, validation = examples_of(recipe, opened, models.load_prompt(recipe))
    size, total = arguments.examples_per_step, len(examples)
    places = [p for step in range(1, arguments.steps + 1) for p in places_of(step, size, total, recipe.train.seed)]
    folder = models.locate(recipe.model)[0]
    return {
        "model": folder,
        "lit_folder": lit(folder, scratch, pythons["litgpt"]) if "litgpt" in pythons else "",
        "run": str(run),
        "settings": [],
        "rows": [plain(examples[place]) for place in places],
        "validation": [plain(example) for example in validation[: arguments.validation]],
        "method": arguments.method,
        "targets": list(recipe.train.lora.targets),
        "steps": arguments.steps,
        "examples_per_step": size,
        "learning_rate": recipe.train.learning_rate,
        "seed": recipe.train.seed,
        "device": arguments.device,
    }


def plain(example: Any) -> dict[str, list[int]]:
    ids = list(example.input_ids)
    return {"input_ids": ids, "labels": [-100] * example.learn_from + ids[example.learn_from :]}


def lit(folder: str, scratch: Path, python: Path) -> str:
    """The model as LitGPT wants it, by its own converter."""
    copied = scratch / "lit" / "SmolLM2-135M-Instruct"
    shutil.copytree(folder, copied)
    code = (
        "from pathlib import Path; from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint; "
        f"convert_hf_checkpoint(Path({str(copied)!r}), model_name='SmolLM2-135M-Instruct')"
    )
    subprocess.run([str(python), "-c", code], check=True, stdout=subprocess.DEVNULL)
    return str(copied)


def trained(system: str, python: Path, given: dict[str, Any], scratch: Path) -> dict[str, Any] | None:
    """One training in a process of its own; None where it failed, with the last line of why."""
    told, found = scratch / "given.json", scratch / "found.json"
    shutil.rmtree(scratch / "out", ignore_errors=True)
    found.unlink(missing_ok=True)
    told.write_text(json.dumps(given | {"scratch": str(scratch / "out")}), "utf-8")
    command = [str(python), str(HERE / "train_peer.py"), system, str(told), str(found)]
    kept = {} if not SYSTEMS[system][0] else {"PYTHONPATH": ""}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | kept)
    if not found.is_file():
        print(f"{system} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(found.read_text("utf-8"))
    return result


def product_speed(device: str) -> float:
    """Operations a second of a matrix product in bf16, the best of a few."""
    import torch

    one = torch.randn(4096, 4096, dtype=torch.bfloat16, device=device)
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        product = one @ one
        float(product[0, 0])
        best = max(best, 2 * 4096**3 / (time.perf_counter() - started))
    return best


def speed(one: dict[str, Any], given: dict[str, Any]) -> float:
    """Tokens of real text a second over the steps but the first; each has as many on average."""
    per_step = sum(len(row["input_ids"]) for row in given["rows"]) / given["steps"]
    return per_step * (len(one["seconds"]) - 1) / sum(one["seconds"][1:])


def table(
    found: dict[str, list[dict[str, Any]]], given: dict[str, Any], arguments: argparse.Namespace, before: float
) -> None:
    """Medians over the rounds; ratios to the first system round by round."""
    from safetensors import safe_open

    with safe_open(str(next(Path(given["model"]).glob("*.safetensors"))), "pt") as file:
        parameters = sum(int(file.get_tensor(name).numel()) for name in file.keys())  # noqa: SIM118
    first = next(name for name in arguments.systems if found[name])
    work = parameters * (4 if arguments.method == "lora" else 6)
    print(
        "| system | tokens/s | against the first | MFU | peak memory | to its first step | validation loss | in bf16 |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for system, runs in found.items():
        if not runs:
            print(f"| {SYSTEMS[system][1]} | failed, see above | | | | | | |")
            continue
        speeds = [speed(one, given) for one in runs]
        ratios = [own / speed(other, given) for own, other in zip(speeds, found[first], strict=False)]
        mfu = statistics.median(work * own / one["product"] for own, one in zip(speeds, runs, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        peak = max(one["peak_bytes"] for one in runs) / 2**30
        start = statistics.median(one["to_first_step"] for one in runs)
        losses = [middle(runs, name) for name in ("loss", "loss_in_bf16")]
        cells = [SYSTEMS[system][1], f"{statistics.median(speeds):.0f}", spread, f"{mfu:.2f}", f"{peak:.1f} GiB"]
        print("| " + " | ".join([*cells, f"{start:.0f} s", *losses]) + " |", flush=True)
    for name, reason in NOT_HERE.items():
        print(f"| {name} | not run: {reason} | | | | | | |")
    circumstances(given, arguments, before)


def middle(runs: list[dict[str, Any]], name: str) -> str:
    return f"{statistics.median(one[name] for one in runs):.4f}" if runs[0][name] is not None else "not taken"


def picture(
    found: dict[str, list[dict[str, Any]]], given: dict[str, Any], arguments: argparse.Namespace, before: float
) -> None:
    """Speed and memory of each system side by side, a dot a round; how much it learnt stands beside its bar."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    kept = {system: runs for system, runs in found.items() if runs}
    names = [SYSTEMS[system][1].replace(" (", "\n(") for system in kept]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(12, 0.6 * len(kept) + 1), layout="constrained", sharey=True, width_ratios=(2, 1)
    )
    for place, (system, runs) in enumerate(kept.items()):
        colour = "tab:orange" if SYSTEMS[system][0] == "" else "tab:blue"
        speeds = [speed(one, given) for one in runs]
        left.barh(place, statistics.median(speeds), color=colour, alpha=0.6)
        left.plot(speeds, [place] * len(speeds), "o", color="black", markersize=4)
        left.text(max(speeds), place, f"  {learnt(runs, before)}", va="center")
        right.barh(place, max(one["peak_bytes"] for one in runs) / 2**30, color=colour, alpha=0.6)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlim(0, 2 * max(speed(one, given) for runs in kept.values() for one in runs))
    left.set_xlabel(f"tokens of real text a second ({arguments.method} fine-tuning of {arguments.base})")
    right.set_xlabel("peak memory, GiB")
    figure.savefig(arguments.picture, dpi=150)


def learnt(runs: list[dict[str, Any]], before: float) -> str:
    """What a system's runs won, in nats, and how much of it the weights hold when they are rounded to bf16."""
    said = f"{before - statistics.median(one['loss'] for one in runs):.3f} nats learnt"
    if runs[0]["loss_in_bf16"] is None:
        return said
    return f"{said}, {before - statistics.median(one['loss_in_bf16'] for one in runs):.3f} in bf16"


def untrained(given: dict[str, Any]) -> float:
    """The validation loss (nats) that all begin with."""
    from peer_tools import loaded, validated

    loss = validated(loaded(given | {"method": "full"})[0], given)["loss"]
    assert loss is not None
    return loss


def circumstances(given: dict[str, Any], arguments: argparse.Namespace, before: float) -> None:
    import torch

    from residency import environment as here

    lengths = sorted(len(row["input_ids"]) for row in given["rows"])
    base = arguments.base + " in bf16" * arguments.base_in_bf16
    print(
        f"\n{arguments.method} fine-tuning of {base}, {arguments.source}: {len(lengths)} rows of "
        f"{lengths[len(lengths) // 2]} tokens in the middle ({lengths[0]} to {lengths[-1]}), {arguments.steps} steps "
        f"of {arguments.examples_per_step}, {arguments.rounds} rounds. {here.describe()['machine']}; "
        f"{torch.get_num_threads()} threads; torch {torch.__version__}; "
        f"validation loss before any training {before:.4f}; "
        f"{'; '.join(sorted({p for name in ENVIRONMENTS for p in ENVIRONMENTS[name][:1]}))}; "
        f"{datetime.date.today().isoformat()}."
    )


if __name__ == "__main__":
    main()
