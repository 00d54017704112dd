"""Greedy decoding of many answers at once, each exactly as if it were asked alone.

transformers' `generate` pads a batch to its longest question, holds answers that have ended until the last one ends,
and copies all keys and values at each token. Here an answer that has ended leaves the batch at once and the next
question takes its place; nothing is padded but by the lengths of the answers that run side by side; and keys and
values lie in memory that is allotted once.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from residency.evaluate.answers.packed import packed
from residency.evaluate.answers.slots import Slots

TOKENS_AT_ONCE = 2048  # of prompts in one forward pass
SHARED = 8  # tokens that all prompts begin with; fewer are not worth a pass of their own
PLACES_FREE = 8  # new questions wait until an eighth of the places is free: a pass for one alone is slow
PROBE = 48  # tokens on which a model is tried


class Unfit(Exception):
    """This model needs more than the plain path; says what."""


@dataclass(frozen=True)
class Choosing:
    """How the next token is chosen from the logits, as transformers' processors of the names do it."""

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0


@dataclass(frozen=True)
class Ended:
    """An answer's tokens without the one that ended it, and seconds since its question entered the batch."""

    ids: list[int]
    stopped: bool
    first_token_seconds: float
    seconds: float


@dataclass
class _Running:
    """An answer on its way: `ids` are those of the prompt and, after them, the answer's."""

    place: int
    ids: list[int]
    asked: int
    started: float
    first: float = 0.0
    runs: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    def add(self, token: int, size: int) -> None:
        """One more token; runs of `size` tokens are remembered by their beginning."""
        self.ids.append(token)
        if size and len(self.ids) >= size:
            self.runs.setdefault(tuple(self.ids[len(self.ids) - size : -1]), []).append(token)


@dataclass(frozen=True)
class Body:
    """A causal language model as the plain path needs it: its layers, and the window of those that have one."""

    model: Any
    layers: int
    full: bool  # some layers see everything
    window: int | None  # some see the last so many tokens

    @classmethod
    def of(cls, model: Any) -> Body:
        """The parts of a model.

        Raises:
            Unfit: it is not built as the plain path needs it.
        """
        if hasattr(model, "peft_config"):
            if any(config.is_prompt_learning for config in model.peft_config.values()):
                raise Unfit("learnt embeddings before the prompt")
            model = model.get_base_model() if hasattr(model, "get_base_model") else model
        if any(name.endswith("virtual_tokens") for name, _ in model.named_buffers()):
            raise Unfit("learnt embeddings before the prompt")
        accepted = inspect.signature(model.forward).parameters
        if not {"position_ids", "past_key_values", "attention_mask"} <= set(accepted):
            raise Unfit("no positions or no keys and values from outside")
        if not model._supports_sdpa or not model._supports_attention_backend or model.get_output_embeddings() is None:
            raise Unfit("an attention of its own")
        config = model.config.get_text_config(decoder=True)
        kinds: list[Any] = DynamicCache(config=config).layers
        chunked = "chunked_attention" in (getattr(config, "layer_types", None) or ())
        if not kinds or chunked or {type(kind) for kind in kinds} - {DynamicLayer, DynamicSlidingWindowLayer}:
            raise Unfit("layers that keep something else than keys and values")
        windows: set[Any] = {kind.sliding_window if kind.is_sliding else None for kind in kinds}
        if len(windows - {None}) > 1:
            raise Unfit("several windows")
        return cls(model, len(kinds), None in windows, max(windows - {None}, default=None))

    def mask(self, positions: torch.Tensor, width: int) -> Any:
        """What `positions` [rows, tokens] see: [rows, 1, tokens, width]; by kind of layer where there are two."""
        columns = torch.arange(width, device=positions.device)
        own = positions[:, None, :, None]
        before = columns <= own
        if self.window is None:
            return before
        near = before & (columns > own - self.window)
        return {"full_attention": before, "sliding_attention": near} if self.full else near

    def logits(self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, slots: Slots) -> torch.Tensor:
        """[rows, tokens, vocabulary] of new tokens `ids` [rows, tokens], or of those that `only_last` leaves."""
        return self.model(  # type: ignore[no-any-return]
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=slots, use_cache=True
        ).logits

    @contextmanager
    def only(self, last: torch.Tensor) -> Iterator[None]:
        """Inside this block the output head runs on one token of each row, `last` [rows]."""
        rows = torch.arange(len(last), device=last.device)
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _module, inputs: (inputs[0][rows, last][:, None],))
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside this block masks mean what `mask` makes them mean."""
        config = self.model.config
        before = config._attn_implementation
        config._attn_implementation = "sdpa"
        try:
            with torch.inference_mode():
                yield
        finally:
            config._attn_implementation = before


_tried: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # why a model is unfit; empty where it is not


def body(model: Any, ids: list[int]) -> Body:
    """The model for the plain path, tried once on a few tokens: prefill and step must give the logits of a plain pass.

    Raises:
        Unfit: it is another kind of model, or the logits differ.
    """
    if model not in _tried:
        _tried[model] = _reason(model, ids[:PROBE])
    if _tried[model]:
        raise Unfit(_tried[model])
    return Body.of(model)


def _reason(model: Any, ids: list[int]) -> str:
    try:
        _try(Body.of(model), ids)
    except Unfit as reason:
        return str(reason)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return ""


def _try(found: Body, ids: list[int]) -> None:
    """Two prompts of different lengths, side by side, one step on; the step's logits against those of a plain pass."""
    prompts = [ids + ids[:1], ids[: len(ids) // 2 + 1]]
    decoder = Decoder(found, prompts, Choosing(), stops=(), limit=2, most=2)
    with found.ready():
        decoder.share()
        decoder.admit()
        own = decoder.step_logits().float()
    for row, running in enumerate(decoder.running):
        with torch.inference_mode():
            given = torch.tensor([running.ids], device=found.model.device)
            plain = found.model(input_ids=given, use_cache=False).logits[0, -1].float()
        half = torch.is_autocast_enabled(plain.device.type) or found.model.dtype in (torch.bfloat16, torch.float16)
        off = float((own[row] - plain).square().mean().sqrt() / plain.std().clamp(min=1e-6))
        if not off <= (0.1 if half else 1e-3):
            raise Unfit(f"its logits are {off:.1g} standard deviations off those of a plain pass")


class Decoder:
    """A batch that questions enter and answers leave."""

    def __init__(
        self,
        model: Body,
        prompts: Sequence[list[int]],
        choosing: Choosing,
        *,
        stops: Collection[int],
        limit: int,
        most: int,
        heard: Callable[[int, Ended], None] = lambda place, ended: None,
        tell: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.model, self.choosing, self.stops, self.limit = model, choosing, frozenset(stops), limit
        self.prompts, self.heard, self.tell = prompts, heard, tell
        self.most = min(most, len(prompts))
        self.waiting = deque(sorted(range(len(prompts)), key=lambda place: -len(prompts[place])))
        self.running: list[_Running] = []
        self.device = model.model.device
        columns = max(map(len, prompts)) + limit
        self.slots = Slots(model.layers, self.most, columns)
        self.said = torch.zeros(self.most, columns, dtype=torch.long, device=self.device)
        self.shared = 0
        self.done = 0

    def run(self) -> None:
        """Answer all prompts; each is handed to `heard` as soon as it has ended."""
        with self.model.ready(), packed(self.model.model):
            self.share()
            while self.waiting or self.running:
                free = self.most - len(self.running)
                if self.waiting and free >= max(self.most // PLACES_FREE, 1):
                    self.admit()
                if self.running:
                    self._take(0, self.step_logits())

    def share(self) -> None:
        """Keys and values of what all prompts begin with, such as a system message, are computed once."""
        if len(self.prompts) > 1:
            ends = zip(min(self.prompts), max(self.prompts), strict=False)  # in order, these two differ first
            common = sum(1 for _ in takewhile(lambda tokens: tokens[0] == tokens[1], ends))
            self.shared = min(common, min(map(len, self.prompts)) - 1)
        if self.shared < SHARED:
            self.shared = 0
            return
        ids = torch.tensor([self.prompts[0][: self.shared]], device=self.device)
        self.slots.fill(0, 1, 0, self.shared)
        with self.model.only(torch.zeros(1, dtype=torch.long, device=self.device)):
            self.model.logits(ids, torch.arange(self.shared, device=self.device)[None], None, self.slots)
        self.slots.keep_shared(self.shared)

    def admit(self) -> None:
        """Questions take the free places, some at a time; the first token of each is chosen."""
        while self.waiting and len(self.running) < self.most:
            longest = len(self.prompts[self.waiting[0]]) - self.shared
            count = min(max(TOKENS_AT_ONCE // longest, 1), self.most - len(self.running), len(self.waiting))
            self._prefill([self.waiting.popleft() for _ in range(count)])

    def _prefill(self, places: list[int]) -> None:
        first, started = len(self.running), time.perf_counter()
        own = [self.prompts[place][self.shared :] for place in places]
        width = max(map(len, own))
        # Padded on the right, where a causal model does not look. With the row's own last token, since a model may
        # warn of a padding token without a mask.
        ids = torch.tensor([row + row[-1:] * (width - len(row)) for row in own], device=self.device)
        positions = torch.arange(self.shared, self.shared + width, device=self.device)[None]
        mask = self.model.mask(positions, self.shared + width) if self.shared else None
        if self.shared:
            self.slots.put_shared(first, first + len(places))
        self.slots.fill(first, first + len(places), self.shared, width)
        with self.model.only(torch.tensor([len(row) - 1 for row in own], device=self.device)):
            logits = self.model.logits(ids, positions, mask, self.slots)
        for slot, place in enumerate(places, start=first):
            running = _Running(place, [], len(self.prompts[place]), started)
            for token in self.prompts[place]:
                running.add(token, self.choosing.no_repeat_ngram_size)
            self.running.append(running)
            if self.choosing.repetition_penalty != 1.0:
                # Behind the prompt stands its first token, time and again: to be penalised twice is to be so once.
                self.said[slot] = running.ids[0]
                self.said[slot, : running.asked] = torch.tensor(running.ids, device=self.device)
        self._take(first, logits[:, -1])

    def step_logits(self) -> torch.Tensor:
        """Logits [running, vocabulary] after the last token of each answer."""
        lengths = [len(running.ids) - 1 for running in self.running]  # of what lies in the slots
        columns = torch.tensor(lengths, device=self.device)
        width = max(lengths) + 1
        self.slots.step(columns, width)
        ids = torch.tensor([running.ids[-1:] for running in self.running], device=self.device)
        return self.model.logits(ids, columns[:, None], self.model.mask(columns[:, None], width), self.slots)[:, -1]

    def _take(self, first: int, logits: torch.Tensor) -> None:
        """Choose the next token of the answers from place `first` on, and let go those that have ended."""
        tokens = self._choose(first, logits)
        now = time.perf_counter()
        over: list[int] = []
        penalised = self.choosing.repetition_penalty != 1.0
        if penalised:
            columns = torch.tensor([len(running.ids) for running in self.running[first:]], device=self.device)
            slots = torch.arange(first, len(self.running), device=self.device)
            self.said[slots, columns] = torch.tensor(tokens, device=self.device)
        for slot, token in enumerate(tokens, start=first):
            running = self.running[slot]
            running.first = running.first or now
            if token in self.stops:
                over.append(slot)
                self._end(running, True, now)
                continue
            running.add(token, self.choosing.no_repeat_ngram_size)
            self.done += 1
            if len(running.ids) - running.asked == self.limit:
                over.append(slot)
                self._end(running, False, now)
        self._close_ranks(over)
        self.tell(self.done, len(self.prompts) * self.limit)

    def _end(self, running: _Running, stopped: bool, now: float) -> None:
        own = running.ids[running.asked :]
        self.done += self.limit - len(own)  # what it will not take
        self.heard(running.place, Ended(own, stopped, running.first - running.started, now - running.started))

    def _close_ranks(self, over: list[int]) -> None:
        """The last running answers move into the places of those that have ended."""
        for slot in reversed(over):
            last = self.running.pop()
            if slot < len(self.running):
                self.running[slot] = last
                self.slots.move(len(self.running), slot, len(last.ids))
                self.said[slot] = self.said[len(self.running)]

    def _choose(self, first: int, logits: torch.Tensor) -> list[int]:
        """The likeliest tokens [rows], after penalties."""
        penalty, size = self.choosing.repetition_penalty, self.choosing.no_repeat_ngram_size
        if penalty != 1.0 or size:
            logits = logits.float()
        running = self.running[first:]
        if penalty != 1.0:
            longest = max(len(one.ids) for one in running)
            said = self.said[first : len(self.running), :longest]
            scores = logits.gather(1, said)
            logits = logits.scatter(1, said, torch.where(scores < 0, scores * penalty, scores / penalty))
        if size:
            banned = [one.runs.get(tuple(one.ids[len(one.ids) - size + 1 :]), ()) for one in running]
            rows = [row for row, own in enumerate(banned) for _ in own]
            logits[rows, [token for own in banned for token in own]] = -torch.inf
        return logits.max(-1).indices.tolist()  # on a CPU four times as fast as argmax
