"""Cross-entropy over the answer tokens, with the output head run on their positions alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from residency.batches import IGNORED


@contextmanager
def head_on(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Inside this block the model's output head sees only the hidden states at `positions` [rows, tokens] (bool).

    The logits then have the shape [positions, vocabulary]: the full tensor [rows, tokens, vocabulary], most of a small
    model's memory, is never built. What a model does to its logits after the head (scaling, soft caps) still happens.
    Hidden states before the first of `tokens` are those of learnt embeddings, which predict nothing.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _module, inputs: (inputs[0][:, -positions.shape[1] :][positions],))
    try:
        yield
    finally:
        hook.remove()


def token_losses(
    model: Any, batch: dict[str, torch.Tensor], smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy (nats) of each learnt token of a batch [learnt], and the row of the batch it is in [learnt].

    The batch holds input_ids, attention_mask and labels, each [rows, tokens]. Position t predicts token t + 1.
    `smoothing` spreads that share of each target over the vocabulary (Szegedy et al. 2015, arXiv:1512.00567).
    """
    targets = batch["labels"][:, 1:]
    learnt = targets != IGNORED
    positions = torch.nn.functional.pad(learnt, (0, 1))  # the last position predicts nothing
    with head_on(model, positions):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits.float(), targets[learnt], reduction="none", label_smoothing=smoothing
    )
    return losses, learnt.nonzero()[:, 0]
