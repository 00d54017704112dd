"""Answers by vLLM's AsyncLLM, whose model works in a process of its own, behind the queue that every engine has.

Prompts go to it in tokens and tokens come back: templates, stop strings and texts stay with this program.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import signal
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from residency import environment, models
from residency.decoding import chosen
from residency.decoding.batch import Asked
from residency.decoding.choosing import Choosing
from residency.errors import UserError, reason_of
from residency.prompts import Prompt
from residency.serve.cores import MEMORY, Desk, Lost, row_bytes
from residency.serve.settings import Settings
from residency.workspace import Run

if TYPE_CHECKING:
    from residency.serve.engine import Job

log = logging.getLogger("residency.serve")
GLANCE = 0.01  # seconds after which one who waits for vLLM looks whether somebody came or left


@dataclass(frozen=True)
class Remote:
    """A model whose weights are in vLLM's process: what is known of it here, as `decoding.chosen.Chosen` has it."""

    name: str
    prompt: Prompt
    choosing: Choosing
    window: int
    vocabulary: int
    row: int  # bytes of one answer's keys and values, as long as the window


def remote(run: Run, prompt: Prompt) -> Remote:
    """The run's tuned model, from its configuration alone."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(run.folder / "model", local_files_only=True, trust_remote_code=False)
    window, vocabulary = chosen.window(config, run), config.get_text_config(decoder=True).vocab_size
    row = row_bytes(config, window, models.fast_dtype().itemsize)
    return Remote("tuned", prompt, chosen.choosing(run), window, int(vocabulary), row)


def load(run: Run, model: Remote, settings: Settings) -> ByVllm:
    """vLLM with the run's model in it, ready to answer; its process is started.

    Raises:
        UserError: vLLM refuses the model, or finds no room for it.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=str(run.folder / "model"),
        skip_tokenizer_init=True,
        generation_config="vllm",  # and not the model's own file: each request says its decoding
        load_format="safetensors",
        trust_remote_code=False,
        dtype=str(models.fast_dtype()).removeprefix("torch."),
        kv_cache_memory_bytes=_memory(model, settings),
        max_model_len=model.window,
        max_num_seqs=settings.rows,
        seed=secrets.randbits(31),  # for answers without a seed of their own
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    try:
        with _deaf():
            llm = AsyncLLM.from_engine_args(arguments)
    except Exception as error:  # of any kind; what its own process says of it stands above this line
        fix = "see what vLLM says above, or leave --engine vllm out"
        raise UserError(f"--engine vllm: vLLM does not load the model ({reason_of(error)})", fix=fix) from error
    return ByVllm(llm, settings.rows, model.prompt.stop_ids, sampling)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started in this block never hear Ctrl-C.

    A terminal sends it to all of them, and answers that the server lets end would be cut off.
    """
    resource_tracker.ensure_running()  # which would let the signal through again, were it started in this block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _memory(model: Remote, settings: Settings) -> int | None:
    """Bytes for keys and values: on a processor what all answers may fill, on a GPU what vLLM finds left.

    Left to itself on a processor, it takes nearly all of the machine's memory. It gives out blocks of tokens, so that
    an answer may take a little more than its own.
    """
    if models.device().type != "cpu":
        return None
    return min((settings.rows + 1) * model.row, int(MEMORY * environment.available_memory()))


def sampling(job: Job, stops: Sequence[int]) -> Any:
    """How vLLM is to choose an answer's tokens, and when it is to end; texts are none of its business."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    own = job.choosing
    return SamplingParams(
        temperature=own.temperature,
        top_p=own.top_p,
        seed=None if own.seed is None else number(own.seed),
        repetition_penalty=own.repetition_penalty,
        max_tokens=job.limit,
        stop_token_ids=sorted(stops),
        ignore_eos=True,  # those that end an answer are all among these
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def number(seed: int | str) -> int:
    """A seed as a whole number of 63 bits, which is what a generator of torch takes."""
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big") >> 1


class ByVllm:
    """Answers side by side. vLLM's event loop is this thread's, and goes on while there is something to answer.

    `llm` is an AsyncLLM; `sampling` makes its SamplingParams of a job and the tokens that end answers.
    """

    def __init__(
        self, llm: Any, rows: int, stops: Sequence[int], sampling: Callable[[Job, Sequence[int]], Any]
    ) -> None:
        self.llm, self.rows, self.stops, self.sampling = llm, rows, stops, sampling
        self.running: list[Job] = []
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._news = asyncio.Event()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """At the end vLLM's process ends, too."""
        try:
            yield
        finally:
            self._call_off()
            self.llm.shutdown()
            self._loop.close()

    def turn(self, desk: Desk) -> None:
        """Hand new ones in, call off those that are not wanted any more, and wait for news of any.

        Raises:
            Lost: vLLM's process has ended.
        """
        for job in desk.next(self._room):
            task = self._loop.create_task(self._answer(desk, job))
            self._tasks[job] = task
            task.add_done_callback(partial(self._left, job))
        for job, task in self._tasks.items():
            if job.over:
                task.cancel()
        self._loop.run_until_complete(self._glance())
        if self.llm.errored:
            raise Lost("vLLM's process has ended: no answer can come any more")

    def drop(self) -> None:
        """End all that runs."""
        jobs, self.running = self.running, []
        for job in jobs:
            job.end("fault")
        if not self._loop.is_closed():
            self._call_off()

    def _call_off(self) -> None:
        """Nothing is asked of vLLM any more; the answers themselves are ended by whoever wants this."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.wait(tasks) if tasks else asyncio.sleep(0))

    def _room(self, waiting: Iterable[Asked]) -> int:
        return min(len(list(waiting)), self.rows - len(self.running))

    async def _glance(self) -> None:
        self._news.clear()
        timer = self._loop.call_later(GLANCE, self._news.set)
        await self._news.wait()
        timer.cancel()

    async def _answer(self, desk: Desk, job: Job) -> None:
        """One answer. Whoever leaves the generator, by what way ever, has vLLM give its place up."""
        try:
            outputs = self.llm.generate({"prompt_token_ids": job.ids}, self.sampling(job, self.stops), uuid.uuid4().hex)
            async with aclosing(outputs):
                async for output in outputs:
                    self._hear(desk, job, output.outputs[0].token_ids)
                    self._news.set()
                    if job.over:
                        return
        except Exception:
            log.exception("an answer by vLLM")

    def _hear(self, desk: Desk, job: Job, tokens: Sequence[int]) -> None:
        """Tokens of an answer; the last one may be one that ends answers."""
        for token in tokens:
            if job.over:
                return
            stopped = token in self.stops
            limit = job.tokens + 1 == job.limit
            desk.heard(job, None if stopped else token, "stop" if stopped else "limit" if limit else "")

    def _left(self, job: Job, _: asyncio.Task[None]) -> None:
        """An answer's task has ended, and so has the answer: vLLM ends none but by its last token or by a fault."""
        if self._tasks.pop(job, None) is None:
            return
        job.end("gone" if job.cancelled else "fault")
        if job in self.running:
            self.running.remove(job)
        self._news.set()
