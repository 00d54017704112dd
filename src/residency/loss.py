"""Cross-entropy over the answer tokens, with the output head run on their positions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from residency.batches import IGNORED
from residency.gradients import Scratch, add_product_to_gradient, add_to_gradient

PROBE = 100.0  # the largest logit of the probe
PIECE = 2**24  # logits that are held at once where the head is frozen: 32 MiB in bf16
LEAST = 1e-30  # a probability whose logarithm is exact
IN_CACHE = 2**20  # of them, those in float32: 4 MiB


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

    The batch holds input_ids, attention_mask and labels, each [rows, tokens], or is packed (`packing.pack`): one row.
    Position t predicts token t + 1.
    `smoothing` spreads that share of each target over the vocabulary (Szegedy et al. 2015, arXiv:1512.00567).
    """
    positions, targets = _learnt(batch)
    with head_on(model, positions):
        logits = model(**_inputs(batch), use_cache=False).logits
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
        found = fused_loss(model, _inputs(batch), lambda hidden: _chosen(hidden, positions), targets, smoothing)
    return token_losses(model, batch, smoothing)[0].sum() if found is None else found


def fused(model: Any) -> bool:
    """Whether head and cross-entropy of this model are gone through as one, as far as is known by now.

    Not where several processes share out the head's weight (FSDP2's are of a mesh, DeepSpeed's have a `ds_id`).
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or getattr(head, "_changed_after", False):
        return False
    return not (hasattr(head.weight, "device_mesh") or hasattr(head.weight, "ds_id"))


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
    places = getattr(head, "_in_place", False), getattr(head, "_scratch", None) or Scratch()
    loss: torch.Tensor = _HeadLoss.apply(hidden, head.weight, head.bias, targets, smoothing, *places)  # type: ignore[no-untyped-call]
    return loss


class _HeadLoss(torch.autograd.Function):
    """The summed cross-entropy of hidden states [positions, width] by a head [vocabulary, width], piece by piece.

    The logits of a piece are turned into their own gradient in their place, in float32 a few rows at a time, and let
    go; the backward pass has nothing left to compute. Where the head learns they are kept, in the products' own format,
    so that its own gradient is a product over all positions; the backward pass adds it up, where that is done in place.
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
        in_place: bool,
        scratch: Scratch,
    ) -> torch.Tensor:
        learns = any(ctx.needs_input_grad)
        whole = learns and any(ctx.needs_input_grad[1:3])
        cast, added = _cast(weight, hidden, scratch), None if bias is None else bias.to(hidden.dtype)
        rows = max(len(hidden) if whole else min(PIECE // len(weight), len(hidden)), 1)
        logits = scratch.take("logits", (rows, len(weight)), hidden)
        to_hidden = torch.empty_like(hidden) if learns else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), rows):
            piece = slice(start, min(start + rows, len(hidden)))
            own = logits[: piece.stop - start]
            torch.mm(hidden[piece], cast.T, out=own)
            if added is not None:
                own += added
            total += _into_gradient(own, targets[piece], smoothing, learns)
            if to_hidden is not None:
                torch.mm(own, cast, out=to_hidden[piece])
        own = logits[: len(hidden)]
        ctx.factors = whole and ctx.needs_input_grad[1] and in_place
        to_weight = own.T @ hidden if whole and ctx.needs_input_grad[1] and not in_place else None
        to_bias = own.sum(0) if whole and ctx.needs_input_grad[2] else None
        ctx.save_for_backward(to_hidden, to_weight, to_bias, *((own, hidden) if ctx.factors else ()))
        ctx.learning, ctx.in_place = (weight, bias), in_place
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, share: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        to_hidden, *to_own = ctx.saved_tensors[:3]
        found: list[torch.Tensor | None] = [None, None]
        known = float(share) if ctx.in_place and not isinstance(share, FakeTensor) else 1.0
        if ctx.factors:
            logits, hidden = ctx.saved_tensors[3:]
            add_product_to_gradient(ctx.learning[0], logits, hidden, known)
        for place, (parameter, gradient) in enumerate(zip(ctx.learning, to_own, strict=True)):
            if gradient is not None and ctx.in_place:
                add_to_gradient(parameter, gradient, known)
            elif gradient is not None:
                found[place] = gradient.to(parameter.dtype) * share
        return None if to_hidden is None else to_hidden * share, *found, None, None, None, None


def _cast(weight: torch.Tensor, hidden: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    """The head's weight [vocabulary, width] in the format of the hidden states."""
    if weight.dtype == hidden.dtype:
        return weight
    return scratch.take("weight", tuple(weight.shape), hidden).copy_(weight)  # type: ignore[arg-type]


def _into_gradient(logits: torch.Tensor, targets: torch.Tensor, smoothing: float, learns: bool) -> torch.Tensor:
    """The summed loss of logits [positions, vocabulary], which become their gradient where something learns.

    Both are computed in float32, of as many rows at once as a processor's caches hold.
    """
    vocabulary = logits.shape[1]
    rows, loss = max(IN_CACHE // vocabulary, 1), torch.zeros((), dtype=torch.float32, device=logits.device)
    for own, target in zip(logits.split(rows), targets[:, None].split(rows), strict=True):
        found = torch.softmax(own, -1, dtype=torch.float32)
        loss -= _summed_log(own, found, target, smoothing)
        if learns:
            found.scatter_add_(1, target, found.new_full(target.shape, smoothing - 1))
            if smoothing:
                found.sub_(smoothing / vocabulary)
            own.copy_(found)
    return loss


def _summed_log(
    logits: torch.Tensor, probabilities: torch.Tensor, target: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """The summed log-probability of the targets [positions, 1], a share of it spread over the vocabulary.

    From the probabilities where they can tell it, which spares a second pass over the logits. Beside a CPU the question
    whether they can would wait for the device.
    """
    if not smoothing and logits.device.type == "cpu":
        picked = probabilities.gather(1, target)
        if isinstance(picked, FakeTensor) or bool((picked > LEAST).all()):
            return picked.log().sum()
    found = torch.log_softmax(logits, -1, dtype=torch.float32)
    spread = smoothing * found.mean(-1).sum() if smoothing else 0.0
    return (1 - smoothing) * found.gather(1, target).sum() + spread


def _inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What of a batch the model itself sees."""
    return {name: value for name, value in batch.items() if name not in {"labels", "targets"}}


def _learnt(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Which positions predict a learnt token [rows, tokens] (bool; the last predicts nothing), and those tokens."""
    if "targets" in batch:
        positions = batch["targets"] != IGNORED
        return positions, batch["targets"][positions]
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
