"""The main job on the built-in data and, where it is given, on MedQuAD: what the tuned model gained, and what it took.

    python benchmarks/main_job.py                               runs the built-in doctor
    python benchmarks/main_job.py --medquad PATH/medquad.parquet   and recipes/medquad.yaml on 600 rows of that file
    python benchmarks/main_job.py --read runs/doctor runs/medquad  only makes the table of finished runs

Prints a Markdown table with machine, versions and date.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
METRICS = (
    ("answer_nll", "answer NLL, nats a token", "{:.3f}"),
    ("rouge_l", "ROUGE-L", "{:.1f}"),
    ("bleu", "BLEU", "{:.1f}"),
    ("chrf", "chrF", "{:.1f}"),
    ("stopped", "stops by itself", "{:.1%}"),
    ("repetition", "caught in a loop", "{:.1%}"),
    ("repeated", "four-word runs repeated", "{:.1%}"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--medquad", type=Path, help="the data set's Parquet file")
    parser.add_argument("--read", type=Path, nargs="+", help="finished runs, instead of making them")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="where the runs are put")
    arguments = parser.parse_args()
    if arguments.read:
        runs = [(folder, None) for folder in arguments.read]
    else:
        runs = [(arguments.out / "doctor", timed([], arguments.out / "doctor"))]
        if arguments.medquad:
            command = [str(ROOT / "recipes" / "medquad.yaml"), "--set", f"data.source={arguments.medquad}"]
            runs.append((arguments.out / "medquad", timed(command, arguments.out / "medquad")))
    for folder, seconds in runs:
        show(json.loads((folder / "report.json").read_text("utf-8")), seconds)


def timed(command: list[str], folder: Path) -> float:
    """Seconds of a whole run, from an empty folder."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "residency", "run", *command, "--overwrite", "--out", str(folder)], check=True
    )
    return time.perf_counter() - started


def show(report: dict[str, Any], seconds: float | None) -> None:
    train, evaluate, data = report["train"], report["evaluate"], report["data"]
    environment = train["environment"]
    print(f"### {report['name']}, {datetime.date.today()}\n")
    print(f"{environment['machine']}; torch {environment['torch']}, transformers {environment['transformers']}.")
    print(
        f"{data['rows_in']} rows read, {data['kept']} kept, {data['split']['train']} trained on; {train['method']}, "
        f"{train['steps']} steps, {train['total_tokens']:,} tokens in {train['seconds']:.0f} s "
        f"({train['tokens_per_second']:.0f} tokens/s, MFU {train['mfu']:.2f}), "
        f"peak memory {train['peak_memory_bytes'] / 2**30:.2f} GiB."
        + (f" The whole run took {seconds:.0f} s." if seconds else "")
    )
    print(f"{evaluate['questions']} held-out questions; decoding chosen: {evaluate['decoding']['name']}.\n")
    print("| score | base | tuned | difference, 95% interval | base, plain greedy | tuned, plain greedy |")
    print("| --- | --- | --- | --- | --- | --- |")
    for key, label, form in METRICS:
        base, tuned = (form.format(evaluate["systems"][name][key]) for name in ("base", "tuned"))
        mean, low, high = (form.format(evaluate["differences"][key][part]) for part in ("mean", "low", "high"))
        greedy = [evaluate["greedy"][name].get(key) for name in ("base", "tuned")]
        plain = [form.format(value) if value is not None else "the same" for value in greedy]
        print(f"| {label} | {base} | {tuned} | {mean} ({low} to {high}) | {plain[0]} | {plain[1]} |")
    print()


if __name__ == "__main__":
    main()
