"""How long a command takes to begin, each several times in turns.

    python benchmarks/startup.py                               Residency
    python benchmarks/startup.py --envs runs/peers             and the peers that `train_speed.py` has installed

The first run of each is left out: it reads files that the others find in memory. Prints the median, least and most.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import time
from pathlib import Path

PEERS = {
    "trl --help": ("trl", "trl", "--help"),
    "trl sft --help": ("trl", "trl", "sft", "--help"),
    "litgpt --help": ("litgpt", "litgpt", "--help"),
    "litgpt finetune_full --help": ("litgpt", "litgpt", "finetune_full", "--help"),
    "llamafactory-cli help": ("llamafactory", "llamafactory-cli", "help"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, help="where the peers are installed")
    parser.add_argument("--rounds", type=int, default=7, help="times that each is started")
    arguments = parser.parse_args()
    commands = {
        "residency --help": [sys.executable, "-m", "residency", "--help"],
        "residency train --help": [sys.executable, "-m", "residency", "train", "--help"],
    }
    if arguments.envs:
        for name, (folder, program, *words) in PEERS.items():
            path = arguments.envs / folder / "bin" / program
            if path.is_file():
                commands[name] = [str(path), *words]
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(arguments.rounds + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr[-500:]}")
            if number:
                taken[name].append(time.perf_counter() - started)
    print("| command | seconds | least and most |\n| --- | --- | --- |")
    for name, seconds in taken.items():
        print(f"| `{name}` | {statistics.median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} |")
    from residency import environment

    print(f"\n{environment.describe()['machine']}; {datetime.date.today().isoformat()}.")


if __name__ == "__main__":
    main()
