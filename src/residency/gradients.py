"""Gradients of the embeddings and the output head, added where they are kept.

Autograd makes each of them whole for every micro-batch, [vocabulary, hidden] in float32, mostly zeros for the
embeddings, and adds it to what is there. Of a small model that is a good part of a step. Here the rows of the tokens
that were seen are added to the gradient that is there, and the head's product is added as it comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.function import once_differentiable

IN_CACHE = 2**21  # numbers of a product that are made and added at once


class Scratch:
    """Memory that one micro-batch leaves to the next: large blocks are mapped and cleared once, and not each time."""

    def __init__(self) -> None:
        self.held: dict[str, torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
        """An uninitialised matrix of that shape, in the format and on the device of `like`."""
        size = shape[0] * shape[1]
        held = self.held.pop(name, None)  # let go before a larger one is made, so that both are never there
        if held is None or held.numel() < size or (held.dtype, held.device) != (like.dtype, like.device):
            held = None
            held = like.new_empty(size)
        self.held[name] = held
        return held[:size].view(shape)

    def release(self) -> None:
        """Give it back."""
        self.held.clear()


@contextmanager
def added_in_place(model: Any, scratch: Scratch | None = None) -> Iterator[None]:
    """Inside this block, forward and backward, for tables that are plain, in one process, and watched by no hook.

    `scratch`: what the head's logits, and its weight in their format, are kept in from one micro-batch to the next.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    looked_up, multiplied = _fits(embeddings, torch.nn.Embedding), _fits(head, torch.nn.Linear)
    if head is not None:
        head._scratch = scratch
    if multiplied:
        head._in_place = True
    if looked_up:
        embeddings.forward = lambda ids: _LookedUp.apply(embeddings.weight, ids, embeddings.padding_idx)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if head is not None:
            del head._scratch
        if multiplied:
            del head._in_place
        if looked_up:
            del embeddings.forward


def add_to_gradient(parameter: torch.Tensor, gradient: torch.Tensor, share: float = 1.0) -> None:
    """Add `share` of a gradient to that of a leaf, as autograd does, without a copy of it in the leaf's format."""
    if parameter.grad is None:
        parameter.grad = gradient.to(parameter.dtype).mul_(share) if share != 1 else gradient.to(parameter.dtype)
    else:
        parameter.grad.add_(gradient, alpha=share)


def add_product_to_gradient(parameter: torch.Tensor, left: torch.Tensor, right: torch.Tensor, share: float) -> None:
    """Add `share` of left.T @ right, of [positions, rows] and [positions, columns], to the gradient of a leaf.

    A few rows at once, which a cache holds: whole, the product and what it becomes in the leaf's format would each be
    as large as the leaf.
    """
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    rows = max(IN_CACHE // right.shape[1], 1)
    for start in range(0, len(parameter), rows):
        piece = slice(start, start + rows)
        parameter.grad[piece].add_(left[:, piece].T @ right, alpha=share)


def _fits(module: Any, kind: type[torch.nn.Module]) -> bool:
    if type(module) is not kind or "forward" in vars(module):
        return False
    if kind is torch.nn.Embedding and (module.max_norm is not None or module.scale_grad_by_freq or module.sparse):
        return False
    return all(
        leaf.is_leaf and leaf.requires_grad and not leaf._backward_hooks and not leaf._post_accumulate_grad_hooks
        for leaf in module.parameters()
    )


class _LookedUp(torch.autograd.Function):
    """Rows of a table [vocabulary, hidden] by ids of any shape; their gradients are added one after the other."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, ids: torch.Tensor, padding: int | None) -> torch.Tensor:
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding = weight, padding
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None]:
        weight, ids = ctx.weight, ctx.saved_tensors[0].flatten()
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        rows = gradient.flatten(0, -2).to(weight.dtype)
        if ctx.padding is not None:
            rows = rows.masked_fill((ids == ctx.padding)[:, None], 0.0)
        weight.grad.index_add_(0, ids, rows)
        return None, None, None
