"""The examples of an optimizer step: their order in each epoch, and their cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from residency.batches import collate
from residency.prompts import Example
from residency.train.dealing import deal


class EpochSampler(Sampler[int]):
    """The order of the examples: another shuffle in each epoch, and the same one whenever an epoch is gone through."""

    def __init__(self, total: int, seed: int) -> None:
        self.total, self.seed, self.epoch = total, seed, 0

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from torch.randperm(self.total, generator=generator).tolist()

    def __len__(self) -> int:
        return self.total

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer when an epoch begins."""
        self.epoch = epoch


def places_of(step: int, per_step: int, total: int, seed: int) -> list[int]:
    """Places of the examples that an optimizer step, counted from 1, goes through: `per_step`, or an epoch's rest."""
    epoch, place = divmod(step - 1, -(-total // per_step))
    sampler = EpochSampler(total, seed)
    sampler.set_epoch(epoch)
    return list(sampler)[place * per_step : (place + 1) * per_step]


@dataclass(frozen=True)
class Given:
    """The examples that a step was cut from, should it have to be cut anew; libraries take it for no batch."""

    examples: Sequence[Any]


class StepCollator:
    """A step's examples as the micro-batches of one rank: `{"micro_batches": [...], "tokens": {...}, "given": Given}`.

    Each rank sees all examples of the step and takes its own; `tokens` counts those of all ranks, by the names of
    `trainer.Counts`. `even`: all ranks get as many micro-batches, the last of some with nothing to learn.
    """

    def __init__(
        self, pad_id: int, tokens_per_batch: int, rank: int = 0, ranks: int = 1, *, even: bool = False
    ) -> None:
        self.pad_id, self.tokens_per_batch = pad_id, tokens_per_batch
        self.rank, self.ranks, self.even = rank, ranks, even

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Deal out, cut and pad the examples of one optimizer step."""
        dealt = deal([len(example) for example in examples], self.tokens_per_batch, self.ranks)
        batches = [[examples[place] for place in places] for places in dealt[self.rank]]
        if self.even:
            batches += [[nothing_of(examples[0])]] * (max(map(len, dealt)) - len(batches))
        tokens = {
            "answer_tokens": sum(example.learnt for example in examples),
            "total_tokens": sum(map(len, examples)),
        }
        made = [collate(batch, self.pad_id) for batch in batches]
        return {"micro_batches": made, "tokens": tokens, "given": Given(examples)}


def nothing_of(example: Example) -> Example:
    """An example that goes through a model and leaves no gradient: its first token, which nothing is learnt from."""
    return Example(example.input_ids[:1], 1)
