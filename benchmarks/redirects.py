"""What redirects among the training rows change: the built-in recipe without them, with a tenth and with a fifth.

    python benchmarks/redirects.py                    trains three models and asks the probes; goes on where it was
    python benchmarks/redirects.py --limit 5          only the first probes of each set, to try it
    python benchmarks/redirects.py --set train.epochs=1 --out runs/redirects-1

Prints Markdown: for each probe set the share of answers that stay in the role, with its 95% interval, for the base
model and the others; the paired difference of each share to the run without redirects; and what the held-out answers
lose.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SHARES = ("0", "0.1", "0.2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="doctor", help="another recipe than the built-in one")
    parser.add_argument("--shares", nargs="+", default=list(SHARES), help="the first is what others are held against")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override, such as train.epochs=1")
    parser.add_argument("--limit", type=int, help="only the first N probes of each set")
    parser.add_argument("--table", action="store_true", help="only make the table of what is there")
    parser.add_argument("--out", type=Path, default=Path("runs/redirects"), help="where the runs are put")
    arguments = parser.parse_args()
    folders = {share: arguments.out / f"share-{share}" for share in arguments.shares}
    for share, folder in folders.items():
        if not arguments.table:
            learn(share, folder, arguments)
    table({share: folder for share, folder in folders.items() if done(folder)})


def learn(share: str, folder: Path, arguments: Any) -> None:
    """One run from the data to its probes; what is there already stays."""
    flags = [part for setting in arguments.overrides for part in ("--set", setting)]
    flags += ["--set", f"data.redirects={'false' if float(share) == 0 else share}"]
    if not (folder / "evaluation" / "scores.json").is_file():
        resume = ["--resume"] if (folder / "recipe.yaml").is_file() else []
        residency("run", arguments.recipe, "--out", str(folder), *flags, *resume)
    if not done(folder):
        limit = ["--limit", str(arguments.limit)] if arguments.limit else []
        residency("behaviour", str(folder), *limit)


def residency(*command: str) -> None:
    subprocess.run([sys.executable, "-m", "residency", *command], check=True)


def done(folder: Path) -> bool:
    return (folder / "evaluation" / "behaviour.json").is_file()


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text("utf-8"))


def verdicts(folder: Path) -> dict[str, list[float]]:
    """For each set, 1 or 0 for each probe to the tuned model."""
    found: dict[str, list[float]] = {}
    for line in (folder / "evaluation" / "behaviour.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        found.setdefault(row["set"], []).append(float(row["tuned"]["kept"]))
    return found


def table(folders: dict[str, Path]) -> None:
    reports = {share: read(folder, "evaluation/behaviour.json") for share, folder in folders.items()}
    first = next(iter(reports))
    print("| set | probes | base | " + " | ".join(f"redirects {share}" for share in reports) + " |")
    print("| --- | --- | --- |" + " --- |" * len(reports))
    for name, own in reports[first]["sets"].items():
        cells = [shown(report["sets"][name]["tuned"]) for report in reports.values()]
        print(f"| {name} | {own['probes']} | {shown(own['base'])} | {' | '.join(cells)} |")
    print("\nDifference to the first, in percentage points, paired:\n")
    differences(folders, first)
    print("\nOn the held-out questions, tuned:\n")
    scores(folders)
    environment = read(folders[first], "train.json")["environment"]
    print(f"\n{environment['machine']}; torch {environment['torch']}, transformers {environment['transformers']}; ")
    print(f"{datetime.date.today()}.")


def differences(folders: dict[str, Path], first: str) -> None:
    from residency.evaluate.scores import score

    before = verdicts(folders[first])
    others = [share for share in folders if share != first]
    print("| set | " + " | ".join(f"redirects {share}" for share in others) + " |")
    print("| --- |" + " --- |" * len(others))
    for name, own in before.items():
        draws = score.resample(len(own), 2000)
        found = [score.difference(verdicts(folders[share])[name], own, draws) for share in others]
        cells = [f"{100 * f.mean:+.0f} ({100 * f.low:+.0f} to {100 * f.high:+.0f})" for f in found]
        print(f"| {name} | {' | '.join(cells)} |")


def scores(folders: dict[str, Path]) -> None:
    print(
        "| redirects | training rows | of them redirects | answer NLL | ROUGE-L | stops by itself | caught in a loop |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for share, folder in folders.items():
        data, own = read(folder, "data/report.json"), read(folder, "evaluation/scores.json")["systems"]["tuned"]
        mixed = (data["redirects"] or {"n": 0})["n"]
        print(
            f"| {share} | {data['split']['train']} | {mixed} | {own['answer_nll']:.3f} | {own['rouge_l']:.1f} "
            f"| {100 * own['stopped']:.0f}% | {100 * own['repetition']:.0f}% |"
        )


def shown(share: dict[str, float]) -> str:
    return f"{100 * share['mean']:.0f}% ({100 * share['low']:.0f} to {100 * share['high']:.0f})"


if __name__ == "__main__":
    main()
