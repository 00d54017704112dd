"""The forecast against what the run then used, over model families, methods, lengths, batches and precisions.

    python benchmarks/forecast_accuracy.py                 every setting, about 25 minutes on two cores
    python benchmarks/forecast_accuracy.py --only llama    settings whose name holds a word
    python benchmarks/forecast_accuracy.py --no-time       memory alone, for a machine that is shared with other work

`residency plan` and `residency train` run in a process each. Prints a Markdown table, a row as soon as it is measured:
forecast, actual and their ratio, then worst and median.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

STEPS = 20


@dataclass(frozen=True)
class Setting:
    """A model, how it is trained, and on how long examples (1: one clinic dialogue, 3: three of them in one)."""

    model: str
    method: str
    dialogues: int
    tokens_per_batch: int
    precision: str = "auto"
    attention: str = "auto"
    optimizer: str = "adamw"
    examples_per_step: int = 8

    @property
    def name(self) -> str:
        """What the table calls it."""
        extra = [x for x in (self.precision, self.attention, self.optimizer) if x not in ("auto", "adamw")]
        return ", ".join(
            [self.model, self.method, f"{self.dialogues} x clinic", f"{self.tokens_per_batch} tokens", *extra]
        )


SETTINGS = (
    Setting("smollm2-135m", "lora", 1, 1024, examples_per_step=4),
    Setting("smollm2-135m", "full", 1, 512, examples_per_step=3),
    Setting("llama-40m", "lora", 1, 1024),
    Setting("llama-40m", "lora", 3, 1024),
    Setting("llama-40m", "full", 1, 2048),
    Setting("llama-40m", "full", 3, 1024, attention="sdpa"),
    Setting("llama-40m", "full", 1, 1024, optimizer="adafactor"),
    Setting("neox-35m", "full", 1, 1024),
    Setting("neox-35m", "lora", 3, 2048),
    Setting("neox-35m", "full", 1, 512, precision="fp32"),
    Setting("qwen2-30m", "full", 1, 1024),
    Setting("qwen2-30m", "lora", 1, 2048, precision="fp32"),
    Setting("qwen2-30m", "lora", 3, 512),
    Setting("qwen2-30m", "full", 3, 2048, attention="eager"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="settings whose name holds this")
    parser.add_argument("--no-measure", action="store_true", help="forecast from the configuration alone")
    parser.add_argument("--no-time", action="store_true", help="leave out the columns of time")
    arguments = parser.parse_args()
    chosen = [setting for setting in SETTINGS if arguments.only in setting.name]
    if not chosen:
        parser.error(f"--only {arguments.only}: no setting's name holds it")
    memory, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for setting in chosen:
            plan, train = compare(setting, Path(folder), measure=not arguments.no_measure)
            if not memory:
                head(train["environment"], timed=not arguments.no_time)
            foreseen, used = plan["memory"]["training_peak"], train["peak_memory_bytes"]
            memory.append(foreseen / used)
            seconds.append(plan["seconds"]["total"] / train["seconds"])
            line = f"| {setting.name} | {foreseen / 2**30:.2f} | {used / 2**30:.2f} | {memory[-1]:.2f} |"
            if not arguments.no_time:
                line += f" {plan['seconds']['total']:.1f} | {train['seconds']:.1f} | {seconds[-1]:.2f} |"
            print(line, flush=True)
    for name, ratios in [("memory", memory)] + ([] if arguments.no_time else [("time", seconds)]):
        off = [abs(ratio - 1) for ratio in ratios]
        print(f"\n{name}: off by {100 * statistics.median(off):.0f}% (median), {100 * max(off):.0f}% (worst).")


def compare(setting: Setting, folder: Path, *, measure: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plan of a setting, and what its training then used."""
    recipe, out = recipe_file(setting, folder), folder / "run"
    residency("prepare", recipe, "--out", out)
    plan = residency("plan", recipe, "--out", out, *([] if measure else ["--no-measure"]))
    train = residency("train", recipe, "--out", out)["train"]
    return plan, train


def recipe_file(setting: Setting, folder: Path) -> Path:
    content = {
        "name": "accuracy",
        "data": {"source": str(data_file(setting.dialogues, folder)), "question": "question", "answer": "answer"},
        "model": {"base": model_folder(setting.model, folder), "attention": setting.attention},
        "train": {
            "method": setting.method,
            "max_steps": STEPS,
            "evaluate_every": STEPS // 2,
            "examples_per_step": setting.examples_per_step,
            "tokens_per_batch": setting.tokens_per_batch,
            "precision": setting.precision,
            "optimizer": setting.optimizer,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(content), "utf-8")  # which is YAML too
    return path


def data_file(dialogues: int, folder: Path) -> Path:
    """The built-in dialogues, so many of them in one."""
    lines = (resources.files("residency") / "assets" / "clinic.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    joined = [
        {
            "question": " ".join(row["Description"] for row in rows[start : start + dialogues]),
            "answer": " ".join(row["Doctor"] for row in rows[start : start + dialogues]),
        }
        for start in range(0, len(rows) - dialogues, dialogues)
    ]
    path = folder / f"clinic-{dialogues}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in joined), "utf-8")
    return path


def model_folder(name: str, folder: Path) -> str:
    """The built-in model, or a random one of another family with the built-in model's tokenizer."""
    if name == "smollm2-135m":
        return "smollm2-135m-instruct"
    target = folder / name
    if not target.is_dir():
        code = "import sys; sys.path.insert(0, sys.argv[1]); import forecast_accuracy as f; f.make_model(*sys.argv[2:])"
        subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), name, str(target)], check=True)
    return str(target)


def make_model(name: str, target: str) -> None:
    from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, Qwen2Config

    from residency.models import load_tokenizer
    from residency.recipe import ModelSection

    tokenizer = load_tokenizer(ModelSection())
    common: dict[str, Any] = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048}
    configs = {
        "llama-40m": lambda: LlamaConfig(
            hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8,
            num_key_value_heads=4, tie_word_embeddings=True, **common,
        ),
        "neox-35m": lambda: GPTNeoXConfig(
            hidden_size=320, intermediate_size=1280, num_hidden_layers=6, num_attention_heads=8, **common
        ),
        "qwen2-30m": lambda: Qwen2Config(
            hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6,
            num_key_value_heads=2, tie_word_embeddings=True, **common,
        ),
    }  # fmt: skip
    AutoModelForCausalLM.from_config(configs[name]()).save_pretrained(target)
    tokenizer.save_pretrained(target)


def residency(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "residency", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def head(environment: dict[str, Any], *, timed: bool) -> None:
    versions = ", ".join(f"{name} {environment[name]}" for name in ("torch", "transformers", "peft"))
    print(f"{environment['machine']}; {versions}; {datetime.date.today()}; {STEPS} steps, two validations.\n")
    print("| setting | peak GiB: forecast | used | ratio |" + (" seconds: forecast | used | ratio |" if timed else ""))
    print("| --- | --- | --- | --- |" + (" --- | --- | --- |" if timed else ""))


if __name__ == "__main__":
    main()
