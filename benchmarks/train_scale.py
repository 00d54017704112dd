"""Speed and memory of training as rows, length and the model grow: a table and a picture.

    python benchmarks/train_scale.py                          every series
    python benchmarks/train_scale.py --series length          one of rows, length, model
    python benchmarks/train_scale.py --out FOLDER             where the runs and `scale.png` are put

Each point is `residency prepare` and `residency train` in processes of their own, on rows of words drawn from the
built-in dialogues. A row is printed as soon as it is measured. Let nothing else run. Tokens a second are those of the
steps, without what came before the first: starting and compiling are columns of their own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

WORDS_PER_TOKEN = 0.72  # of the built-in dialogues under the built-in model's tokenizer
SHAPES = {  # hidden size, layers, heads, key-value heads, intermediate size; Llama with tied embeddings
    "10M": (160, 4, 4, 2, 432),
    "35M": (384, 10, 6, 2, 1024),
    "135M": (576, 30, 9, 3, 1536),
    "360M": (960, 32, 15, 5, 2560),
    "1B": (2048, 16, 32, 8, 8192),
}


@dataclass(frozen=True)
class Point:
    """One training: so many rows of so many tokens, through a model of one of `SHAPES`."""

    series: str
    rows: int
    length: int
    model: str
    method: str = "full"
    tokens_per_step: int = 8192
    steps: int = 4

    @property
    def name(self) -> str:
        """What the table calls it."""
        return {"rows": f"{self.rows:,}", "length": f"{self.length:,}", "model": f"{self.model}, {self.method}"}[
            self.series
        ]


POINTS = (
    *(Point("rows", rows, 64, "10M") for rows in (1_000, 10_000, 50_000, 250_000)),
    *(Point("length", 320, length, "35M", tokens_per_step=16_384) for length in (128, 256, 512, 1024, 2048, 4096)),
    *(Point("model", 320, 180, model, steps=3) for model in ("10M", "35M", "135M", "360M")),
    *(Point("model", 320, 180, model, "lora", steps=3) for model in ("10M", "35M", "135M", "360M", "1B")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    series = sorted({point.series for point in POINTS})
    parser.add_argument("--series", nargs="+", choices=series, default=series, help="only these")
    parser.add_argument("--out", type=Path, default=Path("runs/scale"), help="where the runs are put")
    parser.add_argument("--table", action="store_true", help="only table and picture of what is there")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: list[tuple[Point, dict[str, Any]]] = []
    print("| series | point | tokens/s | against the first | to the first step | compiling | peak memory | MFU |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for point in POINTS:
        if point.series not in arguments.series:
            continue
        kept = arguments.out / f"{point.series}-{point.rows}-{point.length}-{point.model}-{point.method}.json"
        if not kept.is_file():
            if arguments.table:
                continue
            kept.write_text(json.dumps(measured(point, arguments.out)), "utf-8")
        found.append((point, json.loads(kept.read_text("utf-8"))))
        print(line(point, found), flush=True)
    if found:
        about = found[-1][1]["environment"]
        print(f"\n{about['machine']}; torch {about['torch']}, transformers {about['transformers']}; ", end="")
        print(f"{datetime.date.today().isoformat()}.")
        picture(found, arguments.out / "scale.png")


def line(point: Point, found: list[tuple[Point, dict[str, Any]]]) -> str:
    """A row of the table; its ratio is to the first point of the same series and method."""
    own = found[-1][1]
    first = next(one for other, one in found if (other.series, other.method) == (point.series, point.method))
    cells = [
        point.series,
        point.name,
        f"{own['speed']:.0f}",
        f"{own['speed'] / first['speed']:.2f}",
        f"{own['started']:.1f} s",
        f"{own['compiling']:.1f} s",
        f"{own['peak'] / 2**30:.2f} GiB",
        f"{own['mfu']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def measured(point: Point, out: Path) -> dict[str, Any]:
    """Prepare and train one point."""
    run, source = out / "run", rows_of(point, out)
    settings = {
        "data.source": source,
        "data.question": "question",
        "data.answer": "answer",
        "data.near_duplicate": 1,
        "data.redact": "false",
        "model.base": model_of(point.model, out),
        "model.max_length": 2 * point.length,
        "train.method": point.method,
        "train.max_steps": point.steps,
        "train.evaluate_every": point.steps,
        "train.examples_per_step": max(point.tokens_per_step // point.length, 1),
        "train.learning_rate": 1e-4,
        "train.compile": json.dumps(point.series != "rows"),
    }
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    residency("prepare", "doctor", "--out", run, *options)
    begun = time.time()
    train = residency("train", "doctor", "--out", run, *options)["train"]
    metrics = [json.loads(text) for text in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    last = metrics[-1]  # of any kind: it was written when the file was written last
    started = (run / "metrics.jsonl").stat().st_mtime - begun - last["seconds"]
    return {
        "speed": last["total_tokens"] / last["step_seconds"],
        "started": started,
        "compiling": last["compile_seconds"],
        "peak": train["peak_memory_bytes"],
        "mfu": train["mfu"],
        "environment": train["environment"],
    }


def rows_of(point: Point, out: Path) -> Path:
    """Rows of words in random order, about as long as asked for, a third of them the question."""
    file = out / f"rows-{point.rows}-{point.length}.jsonl"
    if not file.is_file():
        text = (resources.files("residency") / "assets" / "clinic.jsonl").read_text("utf-8")
        words = " ".join(json.loads(one)["Doctor"] for one in text.splitlines()).split()
        rng, count = random.Random(1), max(int(point.length * WORDS_PER_TOKEN) - 20, 6)
        with file.open("w", encoding="utf-8") as opened:
            for _ in range(point.rows):
                drawn = rng.choices(words, k=count)
                row = {"question": " ".join(drawn[: count // 3]) + "?", "answer": " ".join(drawn[count // 3 :]) + "."}
                opened.write(json.dumps(row) + "\n")
    return file


def model_of(name: str, out: Path) -> Path:
    """A Llama of random weights with the built-in model's tokenizer."""
    target = out / f"llama-{name}"
    if not target.is_dir():
        from transformers import AutoModelForCausalLM, LlamaConfig

        from residency.models import load_tokenizer
        from residency.recipe import ModelSection

        tokenizer = load_tokenizer(ModelSection())
        hidden, layers, heads, pairs, inner = SHAPES[name]
        config = LlamaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=8192, hidden_size=hidden, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=pairs, intermediate_size=inner, tie_word_embeddings=True,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(target)
        tokenizer.save_pretrained(target)
    return target


def residency(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "residency", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def picture(found: list[tuple[Point, dict[str, Any]]], file: Path) -> None:
    """Speed above, memory below, a column for each series."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    series = sorted({point.series for point, _ in found})
    figure, axes = pyplot.subplots(2, len(series), figsize=(4 * len(series), 6), layout="constrained", squeeze=False)
    for column, name in enumerate(series):
        for method in ("full", "lora"):
            own = [(point, one) for point, one in found if (point.series, point.method) == (name, method)]
            if own:
                places = [_size(point) for point, _ in own]
                axes[0, column].plot(places, [one["speed"] for _, one in own], marker="o", label=method)
                axes[1, column].plot(places, [one["peak"] / 2**30 for _, one in own], marker="o", label=method)
        every = [(point, one) for point, one in found if point.series == name]
        places = sorted({_size(point) for point, _ in every})
        for row in (0, 1):
            axes[row, column].set_xscale("log")
            axes[row, column].xaxis.set_minor_locator(ticker.NullLocator())
            axes[row, column].set_xticks(places, [_short(place) for place in places])
        axes[0, column].set_yscale("log")
        axes[0, column].set_ylim(100, 1.5 * max(one["speed"] for _, one in found))
        axes[1, column].set_ylim(0, 1.1 * max(one["peak"] / 2**30 for _, one in every))
        axes[0, column].set_title({"rows": "more rows", "length": "longer rows", "model": "a larger model"}[name])
        axes[1, column].set_xlabel({"rows": "rows", "length": "tokens a row", "model": "parameters"}[name])
        axes[0, column].legend()
    axes[0, 0].set_ylabel("tokens of real text a second")
    axes[1, 0].set_ylabel("peak memory, GiB")
    figure.savefig(file, dpi=150)


def _short(number: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size and number % (size / 10) == 0:
            return f"{number / size:g} {unit}"
    return f"{number:,.0f}"


def _size(point: Point) -> float:
    number = point.model.removesuffix("M").removesuffix("B")
    millions = float(number) * (1000 if point.model.endswith("B") else 1)
    return {"rows": point.rows, "length": point.length, "model": 1e6 * millions}[point.series]


if __name__ == "__main__":
    main()
