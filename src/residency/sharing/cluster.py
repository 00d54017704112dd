"""Shards through Ray, past one machine: plain tasks, a few at a time, their results in the order of the shards.

Not Ray Data: its blocks would all go into the object store before the first is worked on, and what is told of a shard
beside its rows would have to stand in columns. Tasks that are lost with a machine are done again by Ray.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from typing import Any, TypeVar

from residency.errors import Interrupted, UserError
from residency.sharing.processes import answered, taken, with_threads

LOCAL = "local"
KNOCKS = 10  # seconds for an address to answer

Item = TypeVar("Item")
Result = TypeVar("Result")

_works: dict[str, Any] = {}  # of this process, where it is one of Ray's: unpickled once


def need_ray() -> None:
    """Nothing, or a UserError where Ray is not installed."""
    if find_spec("ray") is None:
        raise UserError("--ray: Ray is not installed", fix="pip install 'residency[ray]', or leave out --ray")


def over(
    address: str, workers: int | None, work: Callable[[Item], Result], items: Sequence[Item], ahead: int
) -> Iterator[Result]:
    """What comes of the work on each item, in order; `workers` is how many tasks run at once, None for all cores.

    Raises:
        UserError: there is no cluster at the address, or the work raises it.
        Interrupted: Ray has given a task up.
    """
    need_ray()
    import ray

    told = pickle.dumps(work)
    key = sha256(told).hexdigest()
    with _joined(address, workers):
        at_once = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(_do)
        held = [ray.put(told)]  # in a list Ray leaves it to the task, which needs it once for each process
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(task.remote(key, held, item))
                if len(waiting) == (workers or ahead * at_once):
                    yield taken(ray.get(waiting.popleft()))
            while waiting:
                yield taken(ray.get(waiting.popleft()))
        except ray.exceptions.RayTaskError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise UserError(
                f"--ray {address}: a task can't begin there ({reason})", "the same residency on every machine of it"
            ) from error
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            raise Interrupted(f"stopped: Ray lost a task of prepare ({reason})") from error


def _do(key: str, held: list[Any], item: Any) -> tuple[bool, Any, str]:
    """The task: in a process of Ray's."""
    if key not in _works:
        import ray

        os.environ.update(with_threads(1))  # before the work brings in what would take every core
        _works.clear()
        _works[key] = pickle.loads(ray.get(held[0]))
    return answered(_works[key], item)


@contextmanager
def _joined(address: str, workers: int | None) -> Iterator[None]:
    """In a cluster: one that this program is in already, or else until the block ends."""
    import ray

    if ray.is_initialized():
        yield
        return
    _refuse_deaf(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address == LOCAL else {}
    with _own_signals():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **here)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise _no_cluster(address, error) from None
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_deaf(address: str) -> None:
    """Nothing, where something listens at an address of HOST:PORT, or it is none; Ray would knock for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=KNOCKS).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"--ray {address}: no cluster can be joined there ({reason})", f"{LOCAL}, auto or HOST:PORT")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end a command without a word."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
