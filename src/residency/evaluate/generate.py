"""Answers in batches: sorted by length, padded on the left, with a key-value cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from residency.batches import collate, cut
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

    Times are from where the answer was asked for: `first_token_seconds` to its first token, `seconds` to its end. Asked
    in a batch, an answer has those of its batch.
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
    heard: Callable[[int, Answer], None] = lambda place, given: None,
) -> Answers:
    """Continue each prompt, given as token ids; `tell(done, total)` is called as tokens come.

    `heard(place, answer)` is called as the answer to `prompts[place]` is finished.
    """
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    groups = [order[start : start + batch] for start in range(0, len(order), batch)]
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=prompt.stop_ids,
        pad_token_id=prompt.tokenizer.pad_token_id or 0,
        **decoding.settings(),
    )
    found: dict[int, Answer] = {}
    started = time.perf_counter()
    for number, places in enumerate(groups):
        began = time.perf_counter()
        ids, mask = _left_padded([prompts[place] for place in places], config.pad_token_id, model.device)
        watcher = _Watcher(tell, number * max_new_tokens, len(groups) * max_new_tokens)
        with torch.inference_mode(), _own_settings_aside(model):
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([watcher]),
            )
        first, spent = watcher.first - began, time.perf_counter() - began
        for place, row in zip(places, output[:, ids.shape[1] :].tolist(), strict=True):
            own = _answer(row, prompt, max_new_tokens)
            found[place] = replace(own, first_token_seconds=first, seconds=spent)
            heard(place, found[place])
    return Answers([found[place] for place in range(len(prompts))], time.perf_counter() - started)


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


def _answer(ids: list[int], prompt: Prompt, limit: int) -> Answer:
    """The new ids up to the first end token; what the batch padded after it is not part of the answer."""
    stops = set(prompt.stop_ids)
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    length = min(len(ids), limit) if end is None else end
    return Answer(prompt.decode(ids[:length]), length, end is not None)


class _Watcher(StoppingCriteria):
    """Never stops anything: it sees each new token go by."""

    def __init__(self, tell: Callable[[int, int], None], before: int, total: int) -> None:
        self.tell, self.done, self.total = tell, before, total
        self.first = 0.0  # when the first token came

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **rest: Any) -> torch.Tensor:
        self.first = self.first or time.perf_counter()
        self.done += 1
        self.tell(self.done, self.total)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
