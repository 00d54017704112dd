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

AGREE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}  # nats a token between packed and padded
PROBE = (Example(tuple(range(3, 20)), 9), Example((*range(3, 10), 11, 4, 8, 6), 8), Example((*range(3, 10), 5, 7), 8))


class Packing:
    """The packing of micro-batches for one model: tried on a probe when the first comes, and left where it fails.

    `say` hears once why nothing is packed, where that is so.
    """

    def __init__(self, model: Any, say: Callable[[str], None], *, bf16: bool = False) -> None:
        """`bf16`: training steps compute in it, by an autocast that the model's forward pass may hold already."""
        self.model, self.say = model, say
        dtype = torch.bfloat16 if bf16 else next(iter(model.parameters())).dtype
        self.bound = AGREE.get(dtype, AGREE[torch.float32])
        self.widest = widest(model.config)
        self.shares = not drops(model)
        self.works: dict[bool, bool] = {}  # for attention that goes through rows apart, or not; once it was tried

    @contextmanager
    def on(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The batch as it goes through the model inside this block, packed where that works."""
        apart = goes_apart(self.model)
        if batch["input_ids"].shape[1] > self.widest or not (len(batch["input_ids"]) > 1 or apart) or not self._tried():
            yield batch
        else:
            with packed_attention(self.model):
                yield pack(batch, share=self.shares, apart=apart)

    def _tried(self) -> bool:
        apart = goes_apart(self.model)
        if apart not in self.works:
            self.works[apart] = self._try()
        return self.works[apart]

    def _try(self) -> bool:
        """Whether each token of a few short rows has the loss, packed, that it has in a padded batch."""
        if reason := unfit(self.model):
            return self._padded(reason)
        try:
            apart = self._apart()
        except Exception as error:  # whatever a model says of what it has never seen, it is trained as it always was
            if is_memory(error):
                raise
            return self._padded(reason_of(error))
        return apart <= self.bound or self._padded(f"packed, a token's loss is {apart:.2g} nats away")

    def _padded(self, reason: str) -> bool:
        self.say(f"Rows are padded and not packed: {reason}")
        return False

    def _apart(self) -> float:
        """Largest difference of a token's loss, in nats."""
        device = next(iter(self.model.parameters())).device
        batch = {name: tensor.to(device) for name, tensor in collate(PROBE, 0).items()}
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                padded = token_losses(self.model, batch)[0]
                packed_batch = pack(batch, share=True, apart=goes_apart(self.model))
                with packed_attention(self.model):
                    packed = token_losses(self.model, packed_batch)[0]
        finally:
            self.model.train(training)
        return float((padded - packed).abs().max())
