"""A training run as the forecast sees it: a model that can be built at any size, and the lengths of its examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from residency.batches import cut
from residency.forecast import memory
from residency.forecast.memory import Answering, Counts, Memory
from residency.forecast.trace import Batch, Trace, trace_by_depth
from residency.forecast.work import Work, fit_work
from residency.packing import attention_for, widest
from residency.row_attention import rows_of

LIKELIHOOD_TOKENS = 2048  # of a batch in which the evaluation takes likelihoods


@dataclass(frozen=True)
class Length:
    """An example's tokens, and how many of them carry loss."""

    tokens: int
    learnt: int


@dataclass(frozen=True)
class Answers:
    """The evaluation's generation: prompts of these lengths, so many at once, answers up to so many tokens."""

    prompts: tuple[int, ...]
    at_once: int
    new_tokens: int


@dataclass(frozen=True)
class Packing:
    """Rows laid end to end: a beginning that all share, the widest row that can be packed, and `Job.chosen`."""

    shared: int
    widest: int
    chosen: Callable[[int], str]

    def of(self, batch: Batch, lengths: Sequence[int]) -> Batch:
        """A batch with rows of these lengths, as it is packed."""
        by_row = self.chosen(batch.width) == "sdpa"
        if batch.width > self.widest or not (batch.rows > 1 or by_row):
            return batch
        own = [lengths[0], *(length - self.shared for length in lengths[1:])]
        if not by_row:
            return replace(batch, packed=sum(own))
        rows = rows_of(own, self.shared)
        return replace(batch, packed=sum(own), area=rows.area, kept=rows.kept)


@dataclass(frozen=True)
class Job:
    """One run. `build(config, attention)` gives the model on the meta device, with its adapters.

    `order`: places of the examples as the first epoch goes through them; `epoch`: their lengths, step by step. `saves`:
    checkpoints before the end. `attention`: eager, sdpa, or auto (by width). `apart`: how many of the last layers are
    trained otherwise than those before them. `paired`: two answers go through for each example, and the output head
    sees every position of both. `beginning`: tokens that all examples begin with, where rows are packed; None where
    they are padded. `in_place`: the embeddings' and the head's gradients are added where they are.
    """

    config: Any
    build: Callable[[Any, str], Any]
    counts: Counts
    method: str
    optimizer: str
    precision: str
    attention: str
    tokens_per_batch: int
    order: tuple[int, ...]
    epoch: tuple[tuple[Length, ...], ...]
    steps: int
    validation: tuple[Length, ...] = ()
    validations: int = 0
    saves: int = 0
    answers: Answers | None = None
    apart: int = 0
    paired: bool = False
    compiled: bool = False
    int8: bool = False  # the backward pass
    beginning: int | None = None
    in_place: bool = False
    shares: int = 1
    traced: dict[tuple[Batch, bool, bool], Trace] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def batches(self) -> tuple[tuple[Batch, ...], ...]:
        """The micro-batches of each step of an epoch."""
        return tuple(tuple(self.cut(step, self.tokens_per_batch)) for step in self.epoch)

    @cached_property
    def validation_batches(self) -> tuple[Batch, ...]:
        """Validation goes through in twice the tokens: it keeps nothing for a backward pass."""
        return tuple(self.cut(self.validation, 2 * self.tokens_per_batch))

    def cut(self, examples: Sequence[Length], tokens_per_batch: int) -> list[Batch]:
        """The micro-batches of some examples as they go through the model."""
        packs = None if self.beginning is None else Packing(self.beginning, widest(self.config), self.chosen)
        return batches(examples, tokens_per_batch, paired=self.paired, packing=packs)

    def chosen(self, width: int) -> str:
        """The attention of a batch whose longest row has so many tokens, as the trainer chooses it."""
        if self.attention != "auto":
            return self.attention
        return attention_for(self.config, width, packs=self.beginning is not None)

    @cached_property
    def largest(self) -> tuple[Batch, Trace]:
        """The micro-batch that needs most memory: with the most tokens, the widest rows or the longest answers."""
        every = [batch for step in self.batches for batch in step]
        traced = [(batch, self.trace(batch)) for batch in _extremes(every)]
        return max(traced, key=lambda pair: pair[1].peak)

    @cached_property
    def work(self) -> Work:
        """Floating-point operations of any micro-batch."""
        return fit_work(self.trace)

    def trace(self, batch: Batch, *, backward: bool = True, cache: bool = False) -> Trace:
        """One micro-batch through this model; see `forecast.trace`."""
        key = (batch, backward, cache)
        if key not in self.traced:
            attention = self.chosen(batch.width)
            self.traced[key] = trace_by_depth(
                lambda config: self.build(config, attention),
                self.config,
                batch,
                apart=self.apart,
                autocast=self.precision == "bf16",
                backward=backward,
                cache=cache,
                in_place=self.in_place and backward,
            )
        return self.traced[key]

    def memory(self, device: str = "cpu", base: int = memory.LIBRARIES, fragments: float | None = None) -> Memory:
        """Memory of the run by part and phase; see `forecast.memory.forecast`."""
        validating = [self.trace(b, backward=False) for b in _extremes(self.validation_batches)]
        return memory.forecast(
            self.counts,
            self.largest,
            max(validating, key=lambda one: one.peak, default=None),
            self._answering(),
            device=device,
            base=base,
            fragments=fragments,
            compiled=self.compiled,
        )

    def shared(self, whole: Memory, ranks: int) -> Memory:
        """That memory on each of several devices that share out the model; see `forecast.memory.shared`."""
        if ranks == 1:
            return whole
        layers = max(int(getattr(self.config, "num_hidden_layers", 1)), 1)
        table = self.counts.vocabulary * int(getattr(self.config, "hidden_size", 0))
        each = min(self.counts.weights / max(self.counts.parameters, 1), 2 if self.precision == "bf16" else 4)
        layer = (self.counts.parameters - table) / layers
        mixed = self.precision == "bf16" and self.counts.trainable == self.counts.parameters
        casts = memory.BFLOAT16 * self.counts.parameters if mixed else 0
        return memory.shared(whole, ranks, int(each * max(table, layer)), casts)

    def with_tokens(self, tokens_per_batch: int) -> Job:
        """The same run in micro-batches of another size; what has been traced is shared."""
        return replace(self, tokens_per_batch=tokens_per_batch)

    def flops(self) -> tuple[float, float]:
        """Operations of all training steps, and of all validations."""
        per_epoch = [sum(self.work.training(b) for b in step) for step in self.batches]
        validation = sum(self.work.forward(b) for b in self.validation_batches)
        return over_epochs(per_epoch, self.steps), validation * self.validations

    def _answering(self) -> Answering | None:
        """Generation in the precision that answers fastest; the cache grows with each new token."""
        if self.answers is None or not self.answers.prompts:
            return None
        prompts = sorted(self.answers.prompts)[-self.answers.at_once :]
        batch = Batch(len(prompts), prompts[-1], len(prompts))
        traced = self.trace(batch, backward=False, cache=True)
        whole = int(traced.saved * (batch.width + self.answers.new_tokens) / batch.width)
        tokens = min(LIKELIHOOD_TOKENS, len(prompts) * (batch.width + self.answers.new_tokens))
        likelihood = memory.logits_bytes(tokens, self.counts.vocabulary, self.precision)
        return Answering(traced.peak, whole, likelihood)


def batches(
    examples: Sequence[Length], tokens_per_batch: int, *, paired: bool = False, packing: Packing | None = None
) -> list[Batch]:
    """The micro-batches that some examples, or pairs of them, are cut into; `packing`: how they are packed, if so."""
    found, answers = [], 2 if paired else 1
    for places in cut([example.tokens for example in examples], tokens_per_batch // answers):
        rows = [examples[place] for place in places]
        width = max(row.tokens for row in rows)
        learnt = 2 * len(rows) * width if paired else sum(row.learnt for row in rows)
        batch = Batch(answers * len(rows), width, max(1, learnt))
        found.append(packing.of(batch, [row.tokens for row in rows]) if packing else batch)
    return found


def over_epochs(per_step: Sequence[float], steps: int) -> float:
    """The sum over `steps` steps of a value known for each step of one epoch."""
    whole, rest = divmod(steps, len(per_step))
    return whole * sum(per_step) + sum(per_step[:rest])


def _extremes(every: Iterable[Batch]) -> list[Batch]:
    every = list(every)
    measures: list[Callable[[Batch], int]] = [
        lambda b: b.tokens,
        lambda b: b.width,
        lambda b: b.learnt,
    ]
    return list(dict.fromkeys(max(every, key=measure) for measure in measures)) if every else []
