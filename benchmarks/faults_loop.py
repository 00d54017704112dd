"""One full loop of error analysis on MedQuAD: the tutorial's settings, their faults, the changed recipe, what is gone.

    python benchmarks/faults_loop.py --medquad PATH/medquad.parquet     trains both runs; goes on where it was

The first run learns no end token and answers under plain greedy, as the tutorial does. `residency faults --fix`
writes the second recipe; nothing in it is written by hand. Prints the change of each fault with its 95% interval as a
Markdown table, and with --look ten answers picked at random with their faults, to judge the rules by.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

RECIPE: dict[str, Any] = {
    "name": "tutorial",
    "data": {"question": "question", "answer": "answer", "rows": 500, "test": 0.2, "validation": 0.05},
    "model": {"max_length": 192},
    "prompt": {"end_token": False},
    "train": {
        "lora": {"targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
        "max_steps": 16,
        "examples_per_step": 8,
        "learning_rate": 2e-3,
        "evaluate_every": 16,
    },
    "evaluate": {"questions": 30, "max_new_tokens": 100, "decoding": "greedy", "off_topic": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--medquad", type=Path, required=True, help="the data set's Parquet file")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="where the runs are put")
    parser.add_argument("--look", action="store_true", help="also print ten answers with their faults")
    arguments = parser.parse_args()
    out, first = arguments.out, arguments.out / "tutorial"
    out.mkdir(parents=True, exist_ok=True)
    recipe, fixed = out / "tutorial.yaml", out / "tutorial-fixed.yaml"
    values = {**RECIPE, "data": {**RECIPE["data"], "source": str(arguments.medquad)}}
    recipe.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    run(recipe, first)
    if not fixed.is_file():
        residency("faults", first, "--fix", "--to", fixed)
    second = out / "tutorial-fixed"
    run(fixed, second)
    residency("faults", second, "--before", first)
    print(fixed.read_text("utf-8"))
    table(second)
    if arguments.look:
        for folder in (first, second):
            look(folder)


def run(recipe: Path, folder: Path) -> None:
    """A whole run, unless it lies there already."""
    if not (folder / "report.html").is_file():
        residency("run", recipe, "--out", folder, "--overwrite")


def residency(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "residency", *map(str, arguments)], check=True)


def table(folder: Path) -> None:
    found = json.loads((folder / "evaluation" / "faults.json").read_text("utf-8"))
    train = json.loads((folder / "train.json").read_text("utf-8"))
    print("| fault | before | after | change, 95% interval |\n| --- | --- | --- | --- |")
    for one in found["before"]["categories"]:
        shares = [one[side] for side in ("before", "now")]
        if all(shares) and any(share["count"] for share in shares):
            change = one["difference"]
            counts = " | ".join(f"{share['count']} of {share['of']}" for share in shares)
            ends = f"{100 * change['low']:+.0f} to {100 * change['high']:+.0f}"
            print(f"| {one['name']} | {counts} | {100 * change['mean']:+.0f} pp ({ends}) |")
    environment = train["environment"]
    print(f"\n{environment['machine']}; torch {environment['torch']}, transformers {environment['transformers']}; ")
    print(f"{datetime.date.today()}; {found['before']['questions']} questions that both answered.")


def look(folder: Path) -> None:
    """Ten of the tuned model's answers, picked at random (seed 1), with question, reference and faults."""
    found = json.loads((folder / "evaluation" / "faults.json").read_text("utf-8"))
    text = (folder / "evaluation" / "answers.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    for place in sorted(random.Random(1).sample(range(len(rows)), 10)):
        row, faults = rows[place], found["answers"][place]
        print(f"\n== {folder.name}, row {row['row']}, {faults['kind']}: {', '.join(faults['tuned']) or 'in order'}")
        print(f"Q {row['question']}\nR {row['reference']}\nA {row['tuned']['text']}")


if __name__ == "__main__":
    main()
