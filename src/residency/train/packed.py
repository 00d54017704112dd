"""Whether a model's micro-batches are packed (`residency.packing`): found out on short rows, and said where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from residency.batches import collate
from residency.errors import reason_of
from residency.loss import token_losses
from residency.packing import drops, goes_apart, pack, packed_attention, unfit, widest
from residency.prompts import Example
from residency.train.stopping import is_memory

# Nats a token between packed and padded, in the middle of all: of weights in half precision attention rounds otherwise.
AGREE = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


class Packing:
    """The packing of micro-batches for one model: tried on a probe when the first comes, and left where it fails.

    `say` hears why nothing is packed, or no long rows are, where that is so.
    """

    def __init__(self, model: Any, say: Callable[[str], None]) -> None:
        self.model, self.say = model, say
        self.bound = AGREE.get(next(iter(model.parameters())).dtype, AGREE[torch.float32])
        self.widest = widest(model.config)
        self.shares = not drops(model)
        self.works: dict[bool, bool] = {}  # for attention that goes through rows apart, or not; once it was tried

    @contextmanager
    def on(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The batch as it goes through the model inside this block, packed where that works."""
        (rows, width), apart = batch["input_ids"].shape, goes_apart(self.model)
        fits = width <= self.widest and (rows > 1 or apart)
        if fits and self._tried(batch, apart):
            with packed_attention(self.model):
                yield pack(batch, share=self.shares, apart=apart)
        else:
            yield batch

    def _tried(self, batch: dict[str, Any], apart: bool) -> bool:
        if apart not in self.works:
            self.works[apart] = self._try(batch["input_ids"][batch["attention_mask"].bool()])
        return self.works[apart]

    def _try(self, text: torch.Tensor) -> bool:
        """Whether each token of a few short rows has the loss, packed, that it has in a padded batch."""
        if reason := unfit(self.model):
            self.widest = 0
            return self._padded(reason)
        try:
            apart = self._apart(text)
        except Exception as error:  # whatever a model says of what it has never seen, it is trained as it always was
            if is_memory(error):
                raise
            return self._padded(reason_of(error))
        return apart <= self.bound or self._padded(f"packed, a token's loss is {apart:.2g} nats away")

    def _padded(self, reason: str) -> bool:
        long = goes_apart(self.model) and self.widest > 0
        self.say(f"{'Long rows' if long else 'Rows'} are padded and not packed: {reason}")
        return False

    def _apart(self, text: torch.Tensor) -> float:
        """Mean difference of a token's loss, in nats."""
        batch = {name: tensor.to(text.device) for name, tensor in collate(_probe(text), 0).items()}
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), _without_autocast(self.model):
                padded = token_losses(self.model, batch)[0]
                packed_batch = pack(batch, share=True, apart=goes_apart(self.model))
                with packed_attention(self.model):
                    packed = token_losses(self.model, packed_batch)[0]
        finally:
            self.model.train(training)
        return float((padded - packed).abs().mean())


def _probe(text: torch.Tensor) -> list[Example]:
    """Three short rows that begin alike, cut out of a text [tokens]: on what no model has seen, rounding goes far."""
    ids = text.repeat(-(-23 // len(text)))[:23].tolist()
    alike, rest = ids[:7], ids[17:]
    return [Example(tuple(ids[:17]), 9), Example((*alike, *rest[:4]), 8), Example((*alike, *rest[4:]), 8)]


@contextmanager
def _without_autocast(model: Any) -> Iterator[None]:
    """accelerate puts one into a model's own forward pass, where none from outside can undo it."""
    within = vars(model).get("forward")
    if within is not None and "_original_forward" in vars(model):
        model.forward = model._original_forward
    try:
        yield
    finally:
        if within is not None:
            model.forward = within
