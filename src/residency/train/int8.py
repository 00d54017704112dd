"""The products of the backward pass in 8-bit integers; the forward pass, and with it the loss, stays as it is.

A processor with VNNI multiplies int8 twice as fast as bf16, and two of the three products that a linear layer takes
are of the backward pass. What they give is a direction, taken at one batch of rows out of many: it bears a rounding
that the loss itself does not (docs/performance.md has both). Each token's gradient has its own scale, and each output
of the layer its own; sums over tokens are taken of numbers whose rounding is dithered, so that small ones aren't lost.

Source: what of a layer may be in int8, and what not, is of SwitchBack (Wortsman et al. 2023, arXiv:2304.13013), which
keeps the gradient of the weights out; a scale for each output, folded into the other factor, and dither let it in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

LARGEST = 127  # of an int8, either way
TINY = 1e-30  # of a scale, where all is 0
LEAST = 128  # inputs and outputs of a layer that is worth it
# Shares by which the rounding of neighbours is shifted, down and across: multiples of them fill a square evenly
# (the R2 sequence: Roberts 2018, the generalised golden ratio).
DOWN, ACROSS = 0.7548776662466927, 0.5698402909980532


class Int8Linear(torch.nn.Linear):
    """A linear layer whose backward pass multiplies in int8."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """As torch.nn.Linear's, in the format that an autocast around it gives."""
        found: torch.Tensor = _Linear.apply(hidden, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return found


class Int8Conv1D(Conv1D):
    """The same of GPT-2's linear layer, whose weight lies the other way: [inputs, outputs]."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """As transformers' Conv1D's."""
        found: torch.Tensor = _Linear.apply(hidden, self.weight.T, self.bias)  # type: ignore[no-untyped-call]
        return found


IN_INT8: dict[type[torch.nn.Module], type[torch.nn.Module]] = {torch.nn.Linear: Int8Linear, Conv1D: Int8Conv1D}


def fitting(parts: Iterable[torch.nn.Module]) -> list[torch.nn.Module]:
    """The plain linear layers inside these parts of a model that are large enough for it to pay."""
    inside = (layer for part in parts for layer in part.modules())
    return [layer for layer in inside if type(layer) in IN_INT8 and min(layer.weight.shape) >= LEAST]  # type: ignore[arg-type]


@contextmanager
def backward(layers: list[torch.nn.Module]) -> Iterator[None]:
    """Inside this block these layers, found by `fitting`, are gone back through in int8."""
    kinds = [type(layer) for layer in layers]
    for layer, kind in zip(layers, kinds, strict=True):
        layer.__class__ = IN_INT8[kind]
    try:
        yield
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind


class _Linear(torch.autograd.Function):
    """hidden [..., inputs] by weight [outputs, inputs] and bias [outputs]."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        found = torch.nn.functional.linear(hidden, weight, bias)
        ctx.save_for_backward(weight, hidden.to(found.dtype) if ctx.needs_input_grad[1] else None)
        ctx.format = hidden.dtype
        return found

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, hidden = ctx.saved_tensors
        own = gradient.flatten(0, -2).float()
        factors, output_scale = _by_row(weight.float())
        small, token_scale = _by_row(own * output_scale.T)
        to_hidden = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_hidden = torch._int_mm(small, factors) * token_scale
            to_hidden = to_hidden.to(ctx.format).unflatten(0, gradient.shape[:-1])
        if ctx.needs_input_grad[1]:
            taken, input_scale = _by_column(hidden.flatten(0, -2).float() * token_scale)
            to_weight = torch._int_mm(small.T, taken) * input_scale / output_scale
        if ctx.needs_input_grad[2]:
            to_bias = own.sum(0)
        return to_hidden, to_weight, to_bias


def _by_row(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix of float32 as int8, and the float32 scale of each row [rows, 1]: their product is it, rounded."""
    scale = numbers.abs().amax(1, keepdim=True).clamp_min(TINY) / LARGEST
    return torch.round(numbers * (1 / scale)).to(torch.int8), scale


def _by_column(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with scales of columns [1, columns], and dithered: a number goes up or down by where it stands.

    Up in as large a share of places as it lies above the lower, so that in sums over rows nothing small is lost.
    """
    scale = numbers.abs().amax(0, keepdim=True).clamp_min(TINY) / LARGEST
    down = torch.arange(numbers.shape[0], dtype=torch.float32, device=numbers.device)[:, None]
    across = torch.arange(numbers.shape[1], dtype=torch.float32, device=numbers.device)
    shift = down * DOWN + across * ACROSS
    scaled = torch.floor(numbers * (1 / scale) + (shift - torch.floor(shift)))
    return scaled.clamp(-LARGEST, LARGEST).to(torch.int8), scale
