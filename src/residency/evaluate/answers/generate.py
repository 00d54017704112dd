"""Answers in batches: by our own decoding, or by transformers' `generate` where a model needs more than that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from residency.batches import collate, cut
from residency.decoding.body import Unfit
from residency.decoding.choosing import Choosing
from residency.decoding.tried import body
from residency.evaluate.answers import decode
from residency.loss import token_losses
from residency.prompts import Example, Prompt


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen; with these defaults, plain greedy."""

    name: str
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def settings(self) -> dict[str, Any]:
        """What differs from plain greedy, in transformers' names."""
        found: dict[str, Any] = {}
        if self.repetition_penalty != 1.0:
            found["repetition_penalty"] = self.repetition_penalty
        if self.no_repeat_ngram_size:
            found["no_repeat_ngram_size"] = self.no_repeat_ngram_size
        return found


GREEDY = Decoding("greedy")
CANDIDATES = (
    GREEDY,
    Decoding("greedy, repetition penalty 1.1", repetition_penalty=1.1),
    Decoding("greedy, repetition penalty 1.2", repetition_penalty=1.2),
)


@dataclass(frozen=True)
class Answer:
    """A model's answer; `stopped` says that it ended by itself and not at the limit.

    The seconds run from when its question entered the batch to its first token and to its end. Answers that differ in
    them alone are equal.
    """

    text: str
    tokens: int
    stopped: bool
    first_token_seconds: float = field(default=0.0, compare=False)
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Answers:
    """Answers in the order of the questions, and the seconds they took together."""

    answers: list[Answer]
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all answers over the time they took."""
        return sum(answer.tokens for answer in self.answers) / max(self.seconds, 1e-9)


def answer(
    model: Any,
    prompt: Prompt,
    prompts: Sequence[list[int]],
    decoding: Decoding,
    *,
    max_new_tokens: int,
    batch: int,
    tell: Callable[[int, int], None] = lambda done, total: None,
    heard: Callable[[int, Answer], None] = lambda place, answer: None,
    say: Callable[[str], None] = lambda text: None,
) -> Answers:
    """Continue each prompt, given as token ids, `batch` of them at a time.

    `tell(done, total)` is called as tokens come; an answer counts `max_new_tokens` once it has ended. `heard(place,
    answer)` is called as soon as the answer to `prompts[place]` has ended. `say` is told once of a model that needs the
    slower way.
    """
    found: dict[int, Answer] = {}
    started = time.perf_counter()

    def end(place: int, own: decode.Ended) -> None:
        text = prompt.decode(own.ids)
        found[place] = Answer(text, len(own.ids), own.stopped, own.first_token_seconds, own.seconds)
        heard(place, found[place])

    if prompts:
        job = _Job(prompts, decoding, frozenset(prompt.stop_ids), max_new_tokens, batch, end, tell)
        try:
            _decode(model, job)
        except Unfit as reason:
            if model not in _told:
                _told.add(model)
                say(f"Answers come by transformers' generate, which is slower: {reason}")
            _generate(model, job, prompt.tokenizer.pad_token_id or 0)
    return Answers([found[place] for place in range(len(prompts))], time.perf_counter() - started)


_told: WeakSet[Any] = WeakSet()


@dataclass(frozen=True)
class _Job:
    """What is to be answered, how, and who hears of it."""

    prompts: Sequence[list[int]]
    decoding: Decoding
    stops: frozenset[int]
    limit: int
    batch: int
    end: Callable[[int, decode.Ended], None]
    tell: Callable[[int, int], None]


def _decode(model: Any, job: _Job) -> None:
    """Our own way; nothing has been told or heard where it raises Unfit."""
    if not all(job.prompts):
        raise Unfit("a prompt without a token")
    choosing = Choosing(job.decoding.repetition_penalty, job.decoding.no_repeat_ngram_size)
    found = body(model, max(job.prompts, key=len))
    decode.Decoder(
        found,
        job.prompts,
        choosing,
        stops=job.stops,
        limit=job.limit,
        most=job.batch,
        heard=job.end,
        tell=job.tell,
    ).run()


def _generate(model: Any, job: _Job, pad_id: int) -> None:
    """transformers' way: batches sorted by length, padded on the left, each until its last answer has ended."""
    order = sorted(range(len(job.prompts)), key=lambda place: -len(job.prompts[place]))
    config = GenerationConfig(
        max_new_tokens=job.limit,
        do_sample=False,
        eos_token_id=sorted(job.stops),
        pad_token_id=pad_id,
        **job.decoding.settings(),
    )
    for start in range(0, len(order), job.batch):
        places = order[start : start + job.batch]
        ids, mask = _left_padded([job.prompts[place] for place in places], pad_id, model.device)
        watcher = _Watcher(partial(_tell, job, start, len(places)))
        with torch.inference_mode(), _own_settings_aside(model):
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([watcher]),
            )
        for place, row in zip(places, output[:, ids.shape[1] :].tolist(), strict=True):
            job.end(place, watcher.ended(row, job.stops))
        _tell(job, start, len(places), job.limit)


def _tell(job: _Job, before: int, rows: int, tokens: int) -> None:
    job.tell(before * job.limit + rows * tokens, len(job.prompts) * job.limit)


def likelihoods(model: Any, examples: Sequence[Example], tokens_per_batch: int = 2048) -> list[tuple[float, int]]:
    """Summed negative log-likelihood (nats) of each example's learnt tokens, and how many there are."""
    found = [(0.0, 0)] * len(examples)
    with torch.inference_mode():
        for places in cut([len(example) for example in examples], tokens_per_batch):
            batch = collate([examples[place] for place in places], 0)
            losses, rows = token_losses(model, {name: tensor.to(model.device) for name, tensor in batch.items()})
            for row, place in enumerate(places):
                own = losses[rows == row]
                found[place] = (float(own.sum()), own.numel())
    return found


@contextmanager
def _own_settings_aside(model: Any) -> Iterator[None]:
    """generate() takes what a config leaves open from the model's own: two decodings would then be the same one."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _left_padded(prompts: list[list[int]], pad_id: Any, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(ids) for ids in prompts)
    ids = torch.tensor([[pad_id] * (width - len(own)) + own for own in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own in prompts], device=device)
    return ids, mask


class _Watcher(StoppingCriteria):
    """Never stops anything: it sees each new token of a batch go by, and when."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.tell, self.started = tell, time.perf_counter()
        self.seconds: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **rest: Any) -> torch.Tensor:
        self.seconds.append(time.perf_counter() - self.started)
        self.tell(len(self.seconds))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def ended(self, ids: list[int], stops: frozenset[int]) -> decode.Ended:
        """The new ids up to the first end token; what the batch padded after it is not part of the answer."""
        end = next((place for place, token in enumerate(ids) if token in stops), None)
        last = len(ids) - 1 if end is None else end
        return decode.Ended(ids[:end], end is not None, self.seconds[0], self.seconds[last])
