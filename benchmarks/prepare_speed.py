"""How long `residency prepare` takes on as many rows as a doctor forum has, how much memory, and how both grow.

    python benchmarks/prepare_speed.py                        at a tenth, a quarter, half and all of 256,916 rows
    python benchmarks/prepare_speed.py --rows 25692 --repeats 3
    python benchmarks/prepare_speed.py --skip-plain           without the slow comparison
    python benchmarks/prepare_speed.py --plain-at 256916      with the slow comparison at all rows: ten minutes
    python benchmarks/prepare_speed.py --workers 1 2 --repeats 3    with one process and with two, in turns

Each job runs in a process of its own on a Parquet file that is made from the built-in clinic by a seed:

* residency: the whole of `residency prepare` with the built-in recipe, from the start of Python to the sealed run
  folder: near-duplicates, audit and tokens included.
* plain: the same rows cleaned with pandas, tokenised with `datasets.map`, near-duplicates by datasketch (128
  permutations, exact similarity of the pairs that it proposes), clusters split at random, the same files. No audit. It
  is measured at the smallest number of rows, unless --plain-at says otherwise.
* tutorial: a notebook's few lines of pandas, which clean, tokenise and compare nothing.

The peak is that of the largest process alone: with --workers, each of the others has its own.

datasketch is installed beside the data, in the temporary folder, if it can't be imported. Prints a Markdown table with
machine, versions and date.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

FORUM = 256_916  # rows of ai-medical-chatbot
SIZES = (FORUM // 10 + 1, FORUM // 4, FORUM // 2, FORUM)
SEED = 123
EXACT, NEAR, STOCK = 0.03, 0.05, 0.3  # shares of the rows: repeats, near-duplicates, answers with a stock closing
MEDIAN_WORDS, SPREAD, LONGEST = 75, 0.6, 1200  # of an answer: lognormal, a mean of 90 words and a tail
CLOSINGS = (
    "For more information consult an internal medicine physician online -->",
    "For further doubts consult a dermatologist online -->",
    "I hope this helps you. Take care.",
    "Hope I have answered your query. Let me know if I can assist you further.",
    "Thank you for asking. Regards.",
)
SHINGLE, PERMUTATIONS, THRESHOLD, LIMIT = 3, 128, 0.8, 2048


@dataclass(frozen=True)
class Measured:
    """A job's seconds, of each repeat, and its peak memory in bytes."""

    job: str
    rows: int
    seconds: list[float]
    peak: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="numbers of rows; four up to 256,916")
    parser.add_argument("--repeats", type=int, default=1, help="times that each job runs; the median is shown")
    parser.add_argument("--skip-plain", action="store_true", help="without the plain comparison")
    parser.add_argument(
        "--plain-at", type=int, nargs="+", help="rows of the plain comparison; the fewest when left out"
    )
    parser.add_argument("--workers", type=int, nargs="+", help="compare these numbers of processes, in turns")
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)  # what a process of its own does
    arguments = parser.parse_args()
    if arguments.job:
        name, rows, source, out = arguments.job
        JOBS[name](int(rows), Path(source), Path(out))
        return
    with tempfile.TemporaryDirectory() as folder:
        show(list(measured(arguments, Path(folder))))


def measured(arguments: argparse.Namespace, folder: Path) -> Iterator[Measured]:
    """Every job at every number of rows, smallest first."""
    sizes = sorted(arguments.rows)
    for rows in sizes:
        source = folder / f"forum-{rows}.parquet"
        timed("generate", rows, source, folder, 1)
        if arguments.workers:
            yield from in_turns(arguments.workers, rows, source, folder, arguments.repeats)
            source.unlink()
            continue
        yield timed("residency", rows, source, folder, arguments.repeats)
        yield timed("tutorial", rows, source, folder, arguments.repeats)
        if not arguments.skip_plain and rows in (arguments.plain_at or sizes[:1]):
            yield timed("plain", rows, source, folder, arguments.repeats)
        source.unlink()


def in_turns(workers: list[int], rows: int, source: Path, folder: Path, repeats: int) -> Iterator[Measured]:
    """The whole of `residency prepare` with each number of processes, one after the other, again and again."""
    rounds = [[timed("residency", rows, source, folder, 1, workers=count) for count in workers] for _ in range(repeats)]
    for found in zip(*rounds, strict=True):
        yield Measured(found[0].job, rows, [one.median for one in found], max(one.peak for one in found))


def timed(job: str, rows: int, source: Path, folder: Path, repeats: int, *, workers: int | None = None) -> Measured:
    """A job in processes of its own. Linux counts a process's peak from its parent's, so that this one stays small."""
    seconds, peaks = [], []
    name = job if workers is None else f"{job}, workers {workers}"
    for repeat in range(repeats):
        out = folder / f"{job}-{rows}-{repeat}"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, __file__, "--job", job, str(rows), str(source), str(out)]
        if job == "residency":
            command = [
                sys.executable,
                "-m",
                "residency",
                "prepare",
                "--set",
                f"data.source={source}",
                "--out",
                str(out),
                *([] if workers is None else ["--workers", str(workers)]),
            ]
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "true"}
        if job == "plain":
            environment["PYTHONPATH"] = os.pathsep.join([*datasketch(folder), environment.get("PYTHONPATH", "")])
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - started)
        peaks.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        if status:
            sys.exit(f"{name} with {rows:,} rows failed")
    print(f"{name}, {rows:,} rows: {statistics.median(seconds):.1f} s", file=sys.stderr, flush=True)
    return Measured(name, rows, seconds, max(peaks))


def datasketch(folder: Path) -> list[str]:
    """The folder that datasketch is installed into; nothing where this Python has it."""
    if importlib.util.find_spec("datasketch"):
        return []
    place = folder / "packages"
    if not place.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place)]
        subprocess.run([*pip, "datasketch", "scipy"], check=True, stdout=sys.stderr)
    return [str(place)]


# The rows


def generate(rows: int, source: Path, _: Path) -> None:
    """A forum of so many rows: sentences of the clinic recombined, with the faults that such data has."""
    import polars as pl

    draw = random.Random(SEED)
    clinic = [
        json.loads(line)
        for line in (resources.files("residency") / "assets" / "clinic.jsonl").read_text("utf-8").splitlines()
    ]
    told = {name: sentences(row[name] for row in clinic) for name in ("Description", "Patient", "Doctor")}
    words = sorted({word for text in told["Doctor"] for word in text.split()})
    exact, near = round(EXACT * rows), round(NEAR * rows)
    forum = [dialogue(draw, told) for _ in range(rows - exact - near)]
    own = len(forum)
    forum += [forum[draw.randrange(own)] for _ in range(exact)]
    forum += [(q, p, changed(draw, a, words)) for q, p, a in (forum[draw.randrange(own)] for _ in range(near))]
    draw.shuffle(forum)
    pl.DataFrame(forum, schema=["Description", "Patient", "Doctor"], orient="row").write_parquet(source)


def sentences(texts: Iterator[str]) -> list[str]:
    return [sentence for text in texts for sentence in re.split(r"(?<=[.!?])\s+", text) if sentence]


def dialogue(draw: random.Random, told: dict[str, list[str]]) -> tuple[str, str, str]:
    """A question out of two descriptions and what a patient said, the patient's message, and an answer."""
    head, tail = (draw.choice(told["Description"]).split() for _ in range(2))
    question = " ".join(
        ["Q.", *head[: draw.randint(3, 12)], *tail[-draw.randint(3, 12) :], draw.choice(told["Patient"])]
    )
    goal = min(draw.lognormvariate(0, SPREAD) * MEDIAN_WORDS, LONGEST)
    answer = draw.choice(told["Doctor"])
    while answer.count(" ") + 1 < goal:
        answer += " " + draw.choice(told["Doctor"])
    closing = " " + draw.choice(CLOSINGS) if draw.random() < STOCK else ""
    return question, " ".join(draw.sample(told["Patient"], 4)), answer + closing


def changed(draw: random.Random, text: str, words: list[str]) -> str:
    """The text with one word in fifty another one, and at least one."""
    own = text.split()
    for place in draw.sample(range(len(own)), max(len(own) // 50, 1)):
        own[place] = draw.choice(words)
    return " ".join(own)


# The comparison


def tutorial(_: int, source: Path, out: Path) -> None:
    """A notebook's lines: columns, prefix, text, random split."""
    import pandas as pd

    rows = pd.read_parquet(source)[["Description", "Doctor"]]
    rows.columns = ["question", "answer"]
    rows["question"] = rows["question"].str.replace(r"^Q\.\s*", "", regex=True).str.strip()
    rows = rows.dropna().drop_duplicates()
    rows["text"] = "### Question:\n" + rows["question"] + "\n\n### Answer:\n" + rows["answer"]
    test = rows.sample(frac=0.1, random_state=SEED)
    out.mkdir()
    for name, part in (("train", rows.drop(test.index)), ("test", test)):
        part.to_json(out / f"{name}.jsonl", orient="records", lines=True)


def plain(_: int, source: Path, out: Path) -> None:
    """What `residency prepare` does without its audit, as it is written by hand."""
    import pandas as pd

    from residency.models import load_tokenizer
    from residency.recipe import ModelSection

    rows = pd.read_parquet(source)[["Description", "Doctor"]]
    rows.columns = ["question", "answer"]
    for column in rows.columns:
        rows[column] = rows[column].map(cleaned)
    rows["question"] = rows["question"].str.replace(r"^\s*[Qq]\s*[.:]\s*", "", regex=True)
    rows = rows[(rows["question"] != "") & (rows["answer"] != "")]
    rows = rows[~rows.apply(lambda row: (row["question"].lower(), row["answer"].lower()), axis=1).duplicated()]
    rows = tokenised(rows, load_tokenizer(ModelSection()))
    cluster = [*range(len(rows))]
    for column, shortest in (("question", 1), ("answer", 8)):
        joined(cluster, rows[column].tolist(), shortest)
    rows["split"] = split([root(cluster, place) for place in range(len(rows))])
    out.mkdir()
    for name, part in rows.groupby("split"):
        part.to_parquet(out / f"{name}.parquet")
        part[["question", "answer"]].to_json(out / f"{name}.jsonl", orient="records", lines=True)
        part[["text"]].to_json(out / f"{name}.text.jsonl", orient="records", lines=True)


def cleaned(text: str) -> str:
    """Composed characters, no control characters, single blanks, placeholders for addresses and phone numbers."""
    import unicodedata

    text = re.sub(
        r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufffd]", "", unicodedata.normalize("NFC", text)
    )
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b", "[EMAIL]", text)
    return re.sub(r"(?<![\w.,/-])\+?\(?\d(?:[ ().-]{0,3}\d){8,14}(?![\w/-])", "[PHONE]", text)


def tokenised(rows: Any, tokenizer: Any) -> Any:
    """The rows with their texts and lengths, without those over the limit."""
    import datasets

    def measure(row: dict[str, str]) -> dict[str, Any]:
        user = {"role": "user", "content": row["question"]}
        prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        text = prompt + row["answer"] + tokenizer.eos_token
        asked, whole = (len(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (prompt, text))
        return {"text": text, "prompt_tokens": asked, "answer_tokens": whole - asked}

    with_lengths = datasets.Dataset.from_pandas(rows, preserve_index=False).map(measure).to_pandas()
    return with_lengths[with_lengths["prompt_tokens"] + with_lengths["answer_tokens"] <= LIMIT].reset_index(drop=True)


def joined(cluster: list[int], texts: list[str], shortest: int) -> None:
    """Join the clusters of texts that are near-duplicates."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    known: dict[int, set[str]] = {}
    for place, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        if len(words) < shortest:
            continue
        own = {" ".join(words[i : i + SHINGLE]) for i in range(max(len(words) - SHINGLE + 1, 1))}
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([shingle.encode() for shingle in own])
        for other in index.query(sketch):
            if len(own & known[other]) / len(own | known[other]) >= THRESHOLD:
                cluster[root(cluster, place)] = root(cluster, other)
        index.insert(place, sketch)
        known[place] = own


def root(cluster: list[int], place: int) -> int:
    while cluster[place] != place:
        cluster[place] = cluster[cluster[place]]
        place = cluster[place]
    return place


def split(cluster: list[int]) -> list[str]:
    """Whole clusters at random: a tenth of the rows for the test, a twentieth for validation."""
    members = defaultdict(list)
    for place, own in enumerate(cluster):
        members[own].append(place)
    order = sorted(members)
    random.Random(SEED).shuffle(order)
    names = ["train"] * len(cluster)
    left = {"test": 0.1 * len(cluster), "validation": 0.05 * len(cluster)}
    for own in order:
        name = next((name for name, rows in left.items() if rows >= len(members[own])), None)
        if name:
            left[name] -= len(members[own])
            for place in members[own]:
                names[place] = name
    return names


JOBS: dict[str, Callable[[int, Path, Path], None]] = {"generate": generate, "tutorial": tutorial, "plain": plain}


# The table


def show(found: list[Measured]) -> None:
    from residency.environment import describe

    machine = describe()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("polars", "tokenizers", "transformers", "pandas"))
    print(f"### Preparing a doctor forum, {datetime.date.today()}\n")
    print(f"{machine['machine']}; {machine['system']}; {libraries}.\n")
    print("| rows | job | seconds | rows a second | peak memory, GiB |\n| --- | --- | --- | --- | --- |")
    for each in sorted(found, key=lambda each: (each.rows, not each.job.startswith("residency"), each.job)):
        memory = f"{each.peak / 2**30:.2f}"
        print(f"| {each.rows:,} | {each.job} | {each.median:.1f} | {each.rows / each.median:,.0f} | {memory} |")
    own = {each.rows: each for each in found if each.job == "residency"}
    print()
    for each in found:
        if each.job == "plain":
            times = each.median / own[each.rows].median
            print(f"At {each.rows:,} rows the plain version takes {times:.1f} times as long.")
    sizes = sorted(own)
    for few, many in pairwise(sizes):
        seconds = 1000 * (own[many].median - own[few].median) / (many - few)
        print(f"From {few:,} to {many:,} rows a thousand more take {seconds:.2f} s.")


if __name__ == "__main__":
    main()
