"""Is fine-tuning worth it? Nine ways to answer the same questions of MedQuAD, as a Markdown table.

python benchmarks/study.py --medquad PATH/medquad.parquet     runs recipes/medquad-study.yaml; goes on where it was
python benchmarks/study.py --read runs/medquad-study          only makes the table of a finished study
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

from residency.report.study import markdown

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--medquad", type=Path, help="the data set's Parquet file")
    parser.add_argument("--read", type=Path, help="a finished study, instead of making it")
    parser.add_argument("--out", type=Path, default=Path("runs/medquad-study"), help="where the study is put")
    arguments = parser.parse_args()
    if not arguments.read:
        if not arguments.medquad:
            parser.error("--medquad PATH is needed, or --read FOLDER")
        command = [sys.executable, "-m", "residency", "study", str(ROOT / "recipes" / "medquad-study.yaml")]
        settings = ["--set", f"data.source={arguments.medquad}", "--out", str(arguments.out)]
        subprocess.run([*command, *settings], check=True)
    study = json.loads(((arguments.read or arguments.out) / "study.json").read_text("utf-8"))
    machine = study["environment"]
    print(f"{machine['machine']}; torch {machine['torch']}, transformers {machine['transformers']}; ", end="")
    print(
        f"{datetime.date.today()}; {study['questions']} held-out questions, {study['trained_on']} training dialogues.\n"
    )
    print(markdown(study), end="\n\n")
    for note in study["notes"]:
        print(note)
    verdict = study["verdict"]
    print("\n" + " ".join([verdict["headline"], *verdict["because"]]))
    if verdict["would_change"]:
        print("\nWhat would change this: " + " ".join(verdict["would_change"]))


if __name__ == "__main__":
    main()
