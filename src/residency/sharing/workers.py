"""Who works on the shards: this process, several on this machine, or a Ray cluster. What comes of them is in order.

A shard is sent when a result has been taken, so that no more than a few shards are on their way at once.
"""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

from residency.sharing import cluster
from residency.sharing.processes import Process

AHEAD = 2  # shards for each worker that are on their way, or done and not taken yet
PAYS = 40_000  # rows for each process, at least: fewer are done before it has started

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

    def over(self, work: Callable[[Item], Result], items: Sequence[Item], rows: int) -> Iterator[Result]:
        """What comes of the work on each item, in order; `rows` is how many rows they hold together.

        Raises:
            UserError: the work raises it, or there is no cluster at the address.
            Interrupted: a process that worked on an item was killed.
        """
        if self.ray is not None:
            return cluster.over(self.ray, self.workers, work, items, AHEAD)
        count = min(self.workers or paying(rows), len(items))
        return map(work, items) if count == 1 else _over_processes(count, work, items)


def paying(rows: int) -> int:
    """How many processes on this machine pay for so many rows."""
    return max(1, min(cores(), rows // PAYS))


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
