"""Which of several processes this one is, and what they agree on.

torchrun starts a process for each device and says in the environment which is which; without it there is one. Only the
first writes into the run folder. Nothing here imports torch before there is something to agree on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from residency.errors import UserError

Value = TypeVar("Value")


def started() -> bool:
    """Whether torchrun, or a launcher like it, has started this process; it says so by a rank on this machine."""
    return "LOCAL_RANK" in os.environ


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if started() else 1


def rank() -> int:
    """Which of them this one is, counted from 0."""
    return int(os.environ.get("RANK", "0")) if started() else 0


def first() -> bool:
    """Whether this process is the one that writes and speaks; true where there is but one."""
    return rank() == 0


def speaks_of_errors() -> bool:
    """Whether an error is told from here: what is wrong for all is said once on each machine."""
    return not started() or int(os.environ["LOCAL_RANK"]) == 0


def restarted() -> bool:
    """Whether torchrun has started this process anew, after one of them had ended."""
    return started() and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def on_this_machine() -> int:
    """How many of the processes share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if started() else 1


def refuse(**options: bool) -> None:
    """Nothing, where there is one process, or none of these options is set.

    Raises:
        UserError: what it does is decided in one process.
    """
    asked = next((f"--{name.replace('_', '-')}" for name, is_set in options.items() if is_set), None)
    if asked and world() > 1:
        raise UserError(
            f"{asked}: started as one of {world()} processes", "one process", "run it without torchrun first"
        )


def joined() -> bool:
    """Whether the processes can hear each other by now."""
    if world() == 1:
        return False
    import torch.distributed

    return torch.distributed.is_initialized()


def join(seconds: float) -> None:
    """Meet the others, and wait that long for each other from here on.

    torchrun keeps its store over a restart, with the addresses of the processes that have ended in it, and whoever
    comes first would read those (github.com/pytorch/pytorch/issues/135712). On one machine every start has a part of
    the store to itself; on several, whose starts are counted apart, `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` gives each
    start a new one, and `residency launch` sets it.
    """
    if not started():
        return
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    if distributed.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    store, number, count = next(rendezvous("env://", timeout=timedelta(seconds=seconds)))
    if on_this_machine() == count:
        store = distributed.PrefixStore(  # type: ignore[attr-defined]
            f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store
        )
    wait = timedelta(seconds=seconds)
    distributed.init_process_group(backend, store=store, rank=number, world_size=count, timeout=wait)


def wait() -> None:
    """Go on when all have come here."""
    if joined():
        from accelerate.utils import wait_for_everyone

        wait_for_everyone()


def any_of(flag: bool) -> bool:
    """Whether it is true of one of them at least."""
    return bool(summed([float(flag)])[0])


def summed(values: Sequence[float]) -> list[float]:
    """The sums over all of them, the same on each."""
    if not joined():
        return list(values)
    import torch
    from accelerate import PartialState
    from accelerate.utils import reduce

    device = PartialState().device
    exact = torch.float32 if device.type == "mps" else torch.float64
    found: list[float] = reduce(torch.tensor(list(values), dtype=exact, device=device), "sum").tolist()
    return found


def told(find: Callable[[], Value]) -> Value:
    """What the first finds; the others wait until it tells them."""
    found = [find() if first() or not joined() else None]
    if joined():
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]


def leave() -> None:
    """Say good-bye to the others, once all is done."""
    if joined():
        import torch.distributed

        torch.distributed.destroy_process_group()
