"""Who works on the shards: this process, several on this machine, or a Ray cluster. What comes of them is in order.

A shard is sent when a result has been taken, so that no more than a few shards are on their way at once.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

from residency.sharing import cluster
from residency.sharing.processes import Process

TRIED = 2  # shards
AHEAD = 2  # shards for each worker that are on their way, or done and not taken yet
STARTS = 5.0  # seconds for processes to be there, with all that they import

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Sharing:
    """How many processes share the work, None for as many as pay; `ray` is a cluster's address, or `local`.

    Raises:
        UserError: Ray is asked for and not installed.
    """

    workers: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.ray is not None:
            cluster.need_ray()

    def over(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """What comes of the work on each item, in order.

        Raises:
            UserError: the work raises it, or there is no cluster at the address.
            Interrupted: a process that worked on an item was killed.
        """
        if self.ray is not None:
            return cluster.over(self.ray, self.workers, work, items, AHEAD)
        if self.workers is None:
            return _as_it_pays(work, items)
        count = min(self.workers, len(items))
        return map(work, items) if count == 1 else _over_processes(count, work, items)


def paying(own: float, cpu: float, items: int) -> int:
    """How many processes pay for so many items, of which one took so many seconds of the processor: of this thread
    alone, and of all.

    What other threads do, as a tokenizer's or polars' own, is taken to use every core already; the clock would count
    what other programs do.
    """
    count = min(cores(), items)
    alone, shared = (own + (cpu - own) / cores()) * items, STARTS + cpu * items / max(1, count)
    return count if shared + STARTS < alone else 1


def _as_it_pays(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """The first items here, to see what they take, and the others where it is fastest."""
    own = cpu = 0.0
    for item in items[:TRIED]:  # what is loaded and compiled once goes with the first
        before, spent = time.thread_time(), time.process_time()
        result = work(item)
        own, cpu = time.thread_time() - before, time.process_time() - spent
        yield result
    left = items[TRIED:]
    count = paying(own, cpu, len(left))
    yield from map(work, left) if count == 1 else _over_processes(count, work, left)


def cores() -> int:
    """How many of the processor's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _over_processes(count: int, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    told, threads = pickle.dumps(work), max(1, cores() // count)
    processes: list[Process] = []
    try:
        for _ in range(count):
            processes.append(Process(told, threads))
        yield from _in_order(processes, items)
    finally:
        for process in processes:
            process.end()


def _in_order(processes: Sequence[Process], items: Sequence[Item]) -> Iterator[Result]:
    idle: SimpleQueue[Process] = SimpleQueue()
    for process in processes:
        idle.put(process)

    def done(item: Item) -> Result:
        process = idle.get()
        try:
            return process.do(item)  # type: ignore[no-any-return]
        finally:
            idle.put(process)

    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(len(processes)) as threads:  # which only wait: the work is done in the processes
        try:
            for item in items:
                waiting.append(threads.submit(done, item))
                if len(waiting) == AHEAD * len(processes):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in processes:  # or the threads would wait for what they are at
                process.end()
            raise
