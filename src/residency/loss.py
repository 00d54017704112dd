"""Cross-entropy over the answer tokens, with the output head run on their positions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from residency.batches import IGNORED

PROBE = 100.0  # the largest logit of the probe
PIECE = 2**23  # float32 logits that are held at once: 32 MiB


@contextmanager
def head_on(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Inside this block the model's output head sees only the hidden states at `positions` [rows, tokens] (bool).

    The logits then have the shape [positions, vocabulary]: the full tensor [rows, tokens, vocabulary], most of a small
    model's memory, is never built. What a model does to its logits after the head (scaling, soft caps) still happens.
    Hidden states before the first of `tokens` are those of learnt embeddings, which predict nothing.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _module, inputs: (_chosen(inputs[0], positions),))
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
    positions, targets = _learnt(batch)
    with head_on(model, positions):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)
    return losses, positions.nonzero()[:, 0]


def summed_loss(model: Any, batch: dict[str, torch.Tensor], smoothing: float = 0.0) -> torch.Tensor:
    """The sum of `token_losses` (nats, a scalar), by a head and cross-entropy in one where the model allows it.

    It does where the head is a plain linear layer and the model takes its outcome as it is: an adapted or packed head,
    scaled or capped logits go through `token_losses`. The sums agree up to rounding; `fused` tells which it was.
    """
    found = None
    if fused(model):
        positions, targets = _learnt(batch)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        found = fused_loss(model, inputs, lambda hidden: _chosen(hidden, positions), targets, smoothing)
    return token_losses(model, batch, smoothing)[0].sum() if found is None else found


def fused(model: Any) -> bool:
    """Whether head and cross-entropy of this model are gone through as one, as far as is known by now."""
    head = model.get_output_embeddings()
    return type(head) is torch.nn.Linear and not getattr(head, "_changed_after", False)


def fused_loss(
    model: Any,
    inputs: dict[str, torch.Tensor],
    choose: Callable[[torch.Tensor], torch.Tensor],
    targets: torch.Tensor,
    smoothing: float = 0.0,
) -> torch.Tensor | None:
    """The summed cross-entropy (nats) of `targets` [positions] by the hidden states that `choose` takes of all.

    None where the model changes its logits after the head, which is noted at the head: numbers that only such a change
    could leave as they are go through in the logits' place. The head's product has the format that an autocast around
    the model's forward pass gives it.
    """
    head, seen = model.get_output_embeddings(), {}

    def before(_module: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        hidden = choose(given[0])
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
        seen["hidden"] = hidden.to(dtype)
        return (given[0].detach().flatten(0, -2)[:0],)

    def after(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        seen["logits"] = torch.linspace(-PROBE, PROBE, output.shape[-1]).to(output)[None]
        return seen["logits"]

    hooks = head.register_forward_pre_hook(before), head.register_forward_hook(after)
    try:
        output = model(**inputs, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if not _same(output.logits, seen["logits"]):
        head._changed_after = True
        return None
    hidden = seen["hidden"]
    bias = None if head.bias is None else head.bias.to(hidden.dtype)
    loss: torch.Tensor = _HeadLoss.apply(hidden, head.weight.to(hidden.dtype), bias, targets, smoothing)  # type: ignore[no-untyped-call]
    return loss


class _HeadLoss(torch.autograd.Function):
    """The summed cross-entropy of hidden states [positions, width] by a head [vocabulary, width], piece by piece.

    The float32 logits of a piece are made, turned into their own gradient in their place, and let go: all of them are
    never there at once, and the backward pass has nothing left to compute. The gradient of the logits is kept in the
    products' own format where the head learns, so that its own gradient is one product over all positions.
    Source: the idea of Liger Kernel (arXiv:2410.10989).
    """

    @staticmethod
    def forward(  # noqa: PLR0917  (as torch hands them on)
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        smoothing: float,
    ) -> torch.Tensor:
        learns = any(ctx.needs_input_grad)
        whole = learns and any(ctx.needs_input_grad[1:3])
        vocabulary = weight.shape[0]
        rows = max(PIECE // vocabulary, 1)
        gradient = hidden.new_empty((len(hidden) if whole else min(rows, len(hidden)), vocabulary))
        to_hidden = torch.empty_like(hidden) if learns else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), rows):
            piece = slice(start, min(start + rows, len(hidden)))
            logits = torch.nn.functional.linear(hidden[piece], weight, bias).float()
            total += _into_gradient(logits, targets[piece], smoothing, learns)
            if to_hidden is not None:
                own = gradient[piece] if whole else gradient[: len(logits)]
                own.copy_(logits)
                torch.mm(own, weight, out=to_hidden[piece])
        to_weight = gradient.T @ hidden if whole and ctx.needs_input_grad[1] else None
        to_bias = gradient.sum(0) if whole and ctx.needs_input_grad[2] else None
        ctx.save_for_backward(to_hidden, to_weight, to_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, share: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*(found if found is None else found * share for found in ctx.saved_tensors), None, None)


def _into_gradient(logits: torch.Tensor, targets: torch.Tensor, smoothing: float, learns: bool) -> torch.Tensor:
    """The summed loss of float32 logits [positions, vocabulary], which become their gradient where something learns."""
    all_of_it, own = logits.logsumexp(-1), targets[:, None]
    loss = all_of_it.sum() - (1 - smoothing) * logits.gather(1, own).sum()
    if smoothing:
        loss -= smoothing * logits.mean(-1).sum()
    if learns:
        logits.sub_(all_of_it[:, None]).exp_()
        logits.scatter_add_(1, own, logits.new_full(own.shape, smoothing - 1))
        if smoothing:
            logits.sub_(smoothing / logits.shape[1])
    return loss


def _learnt(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which positions predict a learnt token [rows, tokens] (bool; the last predicts nothing), and those tokens."""
    targets = batch["labels"][:, 1:]
    learnt = targets != IGNORED
    return torch.nn.functional.pad(learnt, (0, 1)), targets[learnt]


def _same(logits: torch.Tensor, probe: torch.Tensor) -> bool:
    """Whether logits are still the probe, but for their format. Fake tensors of a forecast have no values to tell."""
    if isinstance(logits, FakeTensor):
        return True
    return logits.numel() == probe.numel() and torch.equal(logits.flatten().float(), probe.flatten().float())


def _chosen(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return hidden[:, -positions.shape[1] :][positions]
