"""How training ends before its end: the user stops it, the disk is full, memory runs out. None of them loses work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from safetensors import SafetensorError
from transformers import TrainerCallback

from residency import ranks
from residency.disk import FULL, cant_write
from residency.errors import UserError
from residency.workspace import Run

DISK_WORDS = ("No space left", "File too large", "Disk quota", "PytorchStreamWriter", "inline_container", "I/O error")


class Stopper(TrainerCallback):
    """Ctrl-C or SIGTERM ends training with a checkpoint after the step that is under way; a second one ends it at once.

    Whether the user asked is in `asked`. `tell` says that it was heard.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell, self.asked = tell, False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear the two signals inside this block. Only a main thread can; elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        heard = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
        for number in heard:
            signal.signal(number, self._hear)
        try:
            yield
        finally:
            for number, handler in heard.items():
                signal.signal(number, handler)

    def _hear(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        with suppress(RuntimeError):  # the signal came while another line was being printed
            self.tell("Stopping after this step, with a checkpoint; once more stops at once")

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Have a checkpoint written; where one rank was asked to stop, all do."""
        self.asked = ranks.any_of(self.asked)
        if self.asked:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """End here. Not earlier: the checkpoint would be one of a training that has come to its end."""
        if self.asked:
            control.should_training_stop = True


@contextmanager
def told_plainly(run: Run, tokens_per_batch: int, longest: int) -> Iterator[None]:
    """A full disk or too little memory, whichever library meets it, as the user's error.

    `longest` is the longest example in tokens: no micro-batch can be smaller.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError, SafetensorError) as error:
        if is_memory(error):
            raise _memory(tokens_per_batch, longest) from error
        if _is_disk(error):
            raise _disk(run.folder, error) from error
        raise


def is_memory(error: Exception) -> bool:
    """Whether memory ran out: CUDA's, or the CPU allocator's, which says so in a RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or should_reduce_batch_size(error)


def _is_disk(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(words in str(error) for words in DISK_WORDS)


def _memory(tokens_per_batch: int, longest: int) -> UserError:
    if tokens_per_batch > longest:
        fix = f"lower train.tokens_per_batch, for example to {max(tokens_per_batch // 2, longest)}"
    else:
        fix = f"the longest example has {longest} tokens: lower model.max_length and prepare again"
    return out_of_memory(f"train.tokens_per_batch at {tokens_per_batch}", fix)


def refuse_one_each(step: dict[str, Any], error: Exception) -> None:
    """Nothing, where a step has micro-batches of more than one example, so that it can be cut smaller.

    Raises:
        UserError: each holds one example alone.
    """
    batches, given = step["micro_batches"], step["given"].examples
    if len(batches) >= len(given):
        longest = max(batch["input_ids"].shape[-1] for batch in batches)
        fix = f"the longest example of this step has {longest} tokens: lower model.max_length and prepare again"
        raise out_of_memory("micro-batches of one example each", fix) from error


def out_of_memory(at: str, fix: str) -> UserError:
    """The error for a training that found too little memory; `at` is what it was tried with."""
    return UserError(
        f"training ran out of memory with {at}",
        "micro-batches that fit",
        f"{fix}; --resume goes on from the last checkpoint",
    )


def _disk(folder: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
    fix = "free some space, then --resume goes on from the last checkpoint"
    return cant_write(folder, str(reason), "room for the checkpoints and the model", fix)
