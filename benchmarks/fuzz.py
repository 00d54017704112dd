"""Inputs made to be wrong, for as long as one likes: data files, recipes, requests to a server.

    python benchmarks/fuzz.py                            ten minutes each
    python benchmarks/fuzz.py --minutes 1 --only readers
    python benchmarks/fuzz.py --seed 7                   from another seed; the seeds of a run follow on each other

Hypothesis makes the inputs by the strategies of tests/fuzzing.py, which also say what must hold of each: a table or a
recipe or an answer, or one line (an error object) that says what is wrong. Some hundred of them
run in the test suite.

* readers: JSONL, JSON, CSV, TSV, Parquet, XLSX, text; damaged bytes, other encodings, gzip; both `data.on_error`.
* recipes: damaged YAML and random fields, with overrides; what loads must be the same, written and read again.
* requests: bodies of /v1/chat/completions and /v1/completions, as they are parsed.
* server: the same against the application of `residency serve` on a socket, with a tiny model.

At the end a table: inputs, what became of them, inputs that broke the rule. Those are shown, shortened by Hypothesis,
as they are found; the exit code is 1 where there were any.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import fuzzing

ROUND = 250  # inputs of one seed


@dataclass
class Found:
    """What came of a target's inputs; `broken` are the places in the code where the rule was broken, with the input."""

    outcomes: Counter[str] = field(default_factory=Counter)
    broken: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        return sum(self.outcomes.values())


def fuzzed(target: fuzzing.Target, seconds: float, seed: int) -> Found:
    """Inputs of a target for so many seconds, from a seed on."""
    found, end = Found(), time.monotonic() + seconds
    started = time.monotonic()
    while time.monotonic() < end:
        one_round(target, found, end, seed)
        seed += 1
    found.seconds = time.monotonic() - started
    return found


def one_round(target: fuzzing.Target, found: Found, end: float, seed: int) -> None:
    known, new = set(found.broken), {}

    @hypothesis.seed(seed)
    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        derandomize=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(given=target.inputs)
    def check(given: Any) -> None:
        if time.monotonic() > end:
            return
        try:
            outcome = target.check(given)
        except BaseException as error:
            if where(error) not in known:  # the same each time it is tried, while Hypothesis makes it shorter
                new[where(error)] = f"{str(error)[:300]}\n    input: {given!r:.1500}"
                raise
            outcome = "broken"
        found.outcomes[outcome] += 1

    try:
        check()
    except KeyboardInterrupt:
        raise
    except BaseException:
        for place, told in new.items():
            print(f"{target.name}, seed {seed}: {place}: {told}", flush=True)
        found.broken |= new
        found.outcomes["broken"] += len(new)


def where(error: BaseException) -> str:
    """The last line of our own that an error went through, which tells two faults apart."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "residency" in frame.filename or "fuzzing" in frame.filename
    ]
    frame = own[-1] if own else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"


@contextlib.contextmanager
def targets(wanted: list[str]) -> Iterator[list[fuzzing.Target]]:
    """Those that are wanted; the server runs while they do."""
    plain = [fuzzing.READERS, fuzzing.RECIPES, fuzzing.REQUESTS]
    known = [*(target.name for target in plain), "server"]
    if unknown := set(wanted) - set(known):
        sys.exit(f"--only {' '.join(sorted(unknown))}: unknown; there are {', '.join(known)}")
    chosen = [target for target in plain if not wanted or target.name in wanted]
    if wanted and "server" not in wanted:
        yield chosen
        return
    import tiny
    from residency.serve.served import load
    from serving import LOOPBACK, made, serving

    with tempfile.TemporaryDirectory() as scratch:
        run = made(tiny.chat_model(Path(scratch) / "model"), Path(scratch) / "small")
        own = replace(LOOPBACK, rows=4)
        with serving(load(run, own, compare=False, say=print), own) as there:
            yield [*chosen, fuzzing.Target("server", fuzzing.bodies(), fuzzing.answer_at(there.address))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="for each target")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="some of the targets")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    with targets(arguments.only) as chosen:
        for target in chosen:
            found = fuzzed(target, 60 * arguments.minutes, arguments.seed)
            told = ", ".join(f"{count:,} {name}" for name, count in found.outcomes.most_common())
            rows.append(
                (
                    target.name,
                    found,
                    f"| {target.name} | {found.seconds:.0f} | {found.inputs:,} | {told} | {len(found.broken)} |",
                )
            )
            print(rows[-1][2], file=sys.stderr, flush=True)
    from residency import environment

    print(f"### From seed {arguments.seed}, {datetime.date.today()}\n")
    print(f"{environment.describe()['machine']}; hypothesis {hypothesis.__version__}.\n")
    print("| target | seconds | inputs | what became of them | faults |\n| --- | --- | --- | --- | --- |")
    print("\n".join(row for _, _, row in rows))
    sys.exit(1 if any(found.broken for _, found, _ in rows) else 0)


if __name__ == "__main__":
    main()
