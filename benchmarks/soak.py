"""A server under many clients: mixed requests, some cancelled, some malformed; no answer mixed up, no memory lost.

    python benchmarks/soak.py                               64 clients, 2,000 requests, a model of some thousand weights
    python benchmarks/soak.py --run runs/doctor             a real run's model
    python benchmarks/soak.py --clients 8 --requests 200

`residency serve` runs as a process of its own on this machine. Without --run it has two models of some thousand random
weights: `base`, whose layers add nothing, so that it repeats the last token of its prompt, and `small`, the same with
noise on every weight.

* A third of the requests ask `base` for a marker: a token that no other kind of request ends with. The
  answer has to be that marker, again and again.
* The others have a prompt of their own each, and some a seed. Their answers are those that the same requests got alone,
  one after the other, before the load; how many of these differ from each other is said. Models answer in bf16 where
  the processor has it, which rounds otherwise in other company, so that an answer may differ from the one alone: such
  are counted, and one of some length that another request got alone is mixed up.

Of all requests a tenth are cancelled, in the middle of a stream or before the answer, and a twentieth are malformed. A
503 is asked again after `Retry-After`, and counted. The exit code is 1 where an answer was mixed up, a status of 500
or more came that was no 503, a malformed request got anything but a 4xx, or the memory grew by 5% and more after the
warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

KINDS = 96  # different requests
CANCELLED, MALFORMED = 0.10, 0.05
LONG = 12  # characters of an answer that two requests hardly have by chance
WARM = 0.25  # of the requests, after which memory is counted
GROWN = 0.05
TRIES = 50  # of a request that gets 503
WORDS = ("fever", "cough", "rash", "knee", "cold", "neck", "spell", "eye", "burn", "ear", "sleep", "diet")
BROKEN: tuple[bytes, ...] = (
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b'{"model": "%s"}',
    b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}',
    b'{"model": "%s", "messages": [{"role": "user", "content": 5}]}',
    b'{"model": "%s", "messages": [{"role": "user", "content": "x"}], "top_k": 3}',
    b'{"model": "%s", "messages": [{"role": "assistant", "content": "x"}]}',
    b'{"model": "%s", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
    b"[" * 50_000,
)


@dataclass
class Heard:
    """What the clients heard."""

    statuses: Counter[int] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Way:
    """A kind of request; `marker` is what its answer is made of, where it is asked for one."""

    path: str
    body: dict[str, Any]
    marker: str = ""

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))


def ways(model: str, markers: dict[int, str], rng: random.Random) -> list[Way]:
    """Requests of mixed length and form, each with a prompt of its own; `markers` are tokens that `base` repeats."""
    found = []
    for number in range(KINDS):
        body: dict[str, Any] = {"max_tokens": rng.choice([1, 4, 16, 16, 48]), "stream": rng.random() < 0.5}
        words = " ".join(rng.choices(WORDS, k=rng.choice([3, 3, 8, 20, 60])))
        text = f"Case {number}: {words}, and what about {number}?"
        if number < len(markers):
            token, marker = list(markers.items())[number]
            prompt = [*rng.choices(list(markers), k=rng.choice([1, 10, 100])), token]
            found.append(Way("/v1/completions", body | {"model": "base", "prompt": prompt}, marker))
            continue
        body |= {"model": model} | ({"temperature": 1.0, "seed": number} if rng.random() < 0.3 else {})
        if number % 4 == 3:
            found.append(Way("/v1/completions", body | {"prompt": text}))
        else:
            turns = [("user", f"Hello from {number}."), ("assistant", "Hello.")] if number % 4 == 0 else []
            said = [{"role": role, "content": content} for role, content in [*turns, ("user", text)]]
            found.append(Way("/v1/chat/completions", body | {"messages": said}))
    return found


# A client


async def asked(client: httpx2.AsyncClient, way: Way, heard: Heard | None, stop_after: int | None = None) -> str | None:
    """The answer's text; None where it was refused for want of room too often, or left in the middle of its stream."""
    for _ in range(TRIES):
        started = time.perf_counter()
        async with client.stream("POST", way.path, json=way.body) as response:
            if heard is not None:
                heard.statuses[response.status_code] += 1
            if response.status_code == 503:
                await response.aread()
                if heard is not None:
                    heard.counts["asked again after 503"] += 1
                await asyncio.sleep(random.uniform(0.2, 1) * min(float(response.headers["retry-after"]), 3))
                continue
            if response.status_code != 200:
                raise RuntimeError(f"HTTP {response.status_code}: {(await response.aread())[:200]!r}")
            if not way.streams:
                text = _text(json.loads(await response.aread())["choices"][0])
            else:
                text = await _streamed(response, heard, started, stop_after)
            if heard is not None and text is not None:
                heard.whole.append(time.perf_counter() - started)
            return text
    return None


async def _streamed(
    response: httpx2.Response, heard: Heard | None, started: float, stop_after: int | None
) -> str | None:
    pieces: list[str] = []
    ended = False
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            ended = True
        elif line.startswith("data:"):
            event = json.loads(line.removeprefix("data:"))
            if "error" in event:
                raise RuntimeError(f"an error in a stream: {event}")
            if not pieces and heard is not None:
                heard.first.append(time.perf_counter() - started)
            pieces.append(_text(event["choices"][0]))
            if stop_after is not None and len(pieces) >= stop_after:
                return None
    if not ended:
        raise RuntimeError("a stream broke off")
    return "".join(pieces)


def _text(choice: dict[str, Any]) -> str:
    held = choice.get("message") or choice.get("delta")
    return str((held.get("content") if held is not None else choice.get("text")) or "")


async def cancelled(client: httpx2.AsyncClient, way: Way, heard: Heard, rng: random.Random) -> None:
    """Leave: in the middle of a stream, or before the answer is there."""
    heard.counts["cancelled"] += 1
    body = way.body | {"max_tokens": 200, "stream": rng.random() < 0.5}
    with contextlib.suppress(asyncio.TimeoutError, httpx2.HTTPError):
        wanted = asked(client, Way(way.path, body), None, stop_after=rng.randint(1, 4))
        await asyncio.wait_for(wanted, rng.uniform(0.005, 0.5))


async def malformed(client: httpx2.AsyncClient, heard: Heard, model: str, rng: random.Random) -> None:
    heard.counts["malformed"] += 1
    content = rng.choice(BROKEN).replace(b"%s", model.encode())
    answer = await client.post("/v1/chat/completions", content=content)
    heard.statuses[answer.status_code] += 1
    if not 400 <= answer.status_code < 500 or not answer.json()["error"]["message"]:
        heard.wrong.append(f"malformed {content[:60]!r} got {answer.status_code}")


async def load(
    address: str, found: list[Way], alone: list[str], arguments: argparse.Namespace, memory: Memory
) -> Heard:
    """All requests, from so many clients that ask one after another."""
    heard, model = Heard(), str(found[0].body["model"])
    waiting = iter(range(arguments.requests))
    limits = httpx2.Limits(max_connections=4 * arguments.clients, max_keepalive_connections=arguments.clients)
    async with httpx2.AsyncClient(base_url=address, timeout=600, limits=limits) as client:

        async def one(number: int) -> None:
            rng = random.Random(f"{arguments.seed}/{number}")
            for place in waiting:
                memory.look(place / arguments.requests)
                kind, chance = rng.randrange(len(found)), rng.random()
                if chance < MALFORMED:
                    await malformed(client, heard, model, rng)
                elif chance < MALFORMED + CANCELLED:
                    await cancelled(client, found[kind], heard, rng)
                else:
                    await _compared(client, found, kind, alone, heard)

        await asyncio.gather(*[one(number) for number in range(arguments.clients)])
        await _idle(client)
    memory.look(1.0)
    return heard


async def _compared(client: httpx2.AsyncClient, found: list[Way], kind: int, alone: list[str], heard: Heard) -> None:
    try:
        text = await asked(client, found[kind], heard)
    except (RuntimeError, httpx2.HTTPError) as error:
        heard.wrong.append(f"{type(error).__name__}: {str(error)[:200]}")
        return
    if text is None:
        heard.counts["given up after 503"] += 1
    elif found[kind].marker:
        heard.counts["answered with their marker"] += 1
        if text != found[kind].marker * found[kind].body["max_tokens"]:
            heard.wrong.append(f"request {kind} asked for {found[kind].marker!r} and got {text[:60]!r}")
    elif text == alone[kind]:
        heard.counts["answered as alone"] += 1
    elif len(text) >= LONG and text in alone:
        heard.wrong.append(f"request {kind} got the answer of request {alone.index(text)}: {text[:60]!r}")
    else:
        heard.counts["answered otherwise than alone"] += 1


async def _idle(client: httpx2.AsyncClient) -> None:
    """Wait until nothing runs or waits any more: what was cancelled has to leave its place."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        lines = (await client.get("/metrics")).text.splitlines()
        names = ("residency_running{", "residency_queue_length{")
        if sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(names)) == 0:
            return
        await asyncio.sleep(0.2)
    raise RuntimeError("answers that nobody waits for still hold their places after 60 s")


# The server


@dataclass
class Memory:
    """The server's resident memory in bytes, at shares of the requests."""

    process: psutil.Process
    seen: list[tuple[float, int]] = field(default_factory=list)

    def look(self, share: float) -> None:
        if not self.seen or share >= self.seen[-1][0] + 0.01 or share == 1.0:
            self.seen.append((share, self.process.memory_info().rss))

    @property
    def warm(self) -> int:
        """The largest at the end of the warm-up: a heap breathes, and its least would make of a breath a growth."""
        return max(size for share, size in self.seen if share <= WARM)

    @property
    def last(self) -> int:
        """The largest in the last tenth."""
        return max(size for share, size in self.seen if share >= 0.9)

    @property
    def grown(self) -> float:
        return self.last / self.warm - 1


@contextlib.contextmanager
def serving(run: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, psutil.Process]]:
    """The address of `residency serve`, and its process; it has to end by itself when it is told to."""
    options = ["--port", "0", "--concurrency", str(arguments.concurrency), "--queue", str(arguments.queue)]
    options += [] if arguments.run else ["--compare"]
    command = [sys.executable, "-m", "residency", "serve", str(run), *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout
            address = process.stdout.readline().strip().removesuffix("/v1")
            if not address:
                log.seek(0)
                sys.exit(log.read())
            yield address, psutil.Process(process.pid)
            process.terminate()
            if process.wait(60):
                sys.exit(f"the server ended with {process.returncode}")
            log.seek(0)
            if "Traceback" in (said := log.read()):
                sys.exit(f"the server's log has a traceback:\n{said[-3000:]}")
        finally:
            process.kill()


def tiny_run(folder: Path) -> tuple[Path, dict[int, str]]:
    """A run of two models of some thousand weights, and the tokens that its base repeats, with their texts."""
    import tiny
    from residency.models import load_tokenizer
    from serving import made

    run = made(tiny.chat_model(folder / "model", echo=True), folder / "small", max_length=512)
    run.write_json("model/generation_config.json", {})
    tokenizer = load_tokenizer(run.recipe.model)
    texts = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
    plain = {token: text for token, text in texts.items() if text.isascii() and text.isalpha()}
    return run.folder, dict(list(plain.items())[: KINDS // 3])


async def one_by_one(address: str, found: list[Way]) -> list[str]:
    async with httpx2.AsyncClient(base_url=address, timeout=600) as client:
        return [str(await asked(client, way, None)) for way in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a trained run; a tiny model when left out")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16, help="answers side by side")
    parser.add_argument("--queue", type=int, default=64, help="answers that may wait")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from residency.workspace import Run

    with tempfile.TemporaryDirectory() as scratch:
        run, markers = (arguments.run, {}) if arguments.run else tiny_run(Path(scratch))
        found = ways(Run.open(run).recipe.name, markers, random.Random(arguments.seed))
        with serving(run, arguments) as (address, process):
            alone = asyncio.run(one_by_one(address, found))
            memory, started = Memory(process), time.perf_counter()
            heard = asyncio.run(load(address, found, alone, arguments, memory))
            seconds = time.perf_counter() - started
    sys.exit(show(arguments, heard, alone, memory, seconds))


def show(arguments: argparse.Namespace, heard: Heard, alone: list[str], memory: Memory, seconds: float) -> int:
    """The table, and 1 where something was wrong."""
    import numpy as np

    from residency import environment

    bad = {status: count for status, count in heard.statuses.items() if status >= 500 and status != 503}
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "fastapi", "uvicorn"))
    what = arguments.run or "a model of some thousand parameters"
    print(f"### {what}, {arguments.clients} clients, {arguments.requests:,} requests, {datetime.date.today()}\n")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"{environment.describe()['machine']}, {threads} threads of torch; {libraries}.\n")
    counts = ", ".join(f"{count:,} {name}" for name, count in heard.counts.most_common())
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(heard.statuses.items()))
    rows = {
        "requests": f"{arguments.requests:,} in {seconds:.0f} s",
        "what became of them": counts,
        "statuses": statuses,
        "500 and more, without 503": str(sum(bad.values())),
        "answers mixed up, or otherwise wrong": str(len(heard.wrong)),
        "different answers among those alone": f"{len(set(alone))} of {len(alone)}",
        "first token, s: p50, p99": " and ".join(f"{np.percentile(heard.first, q):.3f}" for q in (50, 99)),
        "whole answer, s: p50, p99": " and ".join(f"{np.percentile(heard.whole, q):.3f}" for q in (50, 99)),
        "server's memory, warm and at the end": f"{memory.warm / 2**20:.0f} MiB, {memory.last / 2**20:.0f} MiB "
        f"({memory.grown:+.1%})",
    }
    print("| what | |\n| --- | --- |")
    print("\n".join(f"| {name} | {value} |" for name, value in rows.items()))
    for told in heard.wrong[:10]:
        print(told, file=sys.stderr)
    return int(bool(bad or heard.wrong or memory.grown >= GROWN))


if __name__ == "__main__":
    main()
