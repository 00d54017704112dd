"""Small steps that outlive bf16: where weights are numbers of that format, the bits below it are drawn.

Most published weights are numbers of bf16. Fine-tuning moves one by less than half of what lies between it and the
next, and wherever it is rounded, in the passes of training in bf16 or in the model that is loaded or exported in it,
the weight is what it was: what was learnt is gone. Here each begins anywhere among the numbers that round to it, by
lot. The model in bf16 is the same; but now a small step takes some weights over to the next number, as large a share as
the step is of the way there, and in the mean nothing is lost. In signal processing this is dither (Roberts 1962); it is
stochastic rounding (Gupta et al. 2015, arXiv:1502.02551) whose lots are drawn once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import torch

BELOW = 16  # bits of a float32 that bf16 has not
MAGNITUDE = 0x7FFFFFFF  # of a float32's bits all but the sign
INFINITE = 0x7F800000
AT_ONCE = 2**22  # weights
CHANCE = 1e-3  # share of a matrix; of numbers of any kind 1 in 65,536 is one of bf16


def dither(weights: Iterable[tuple[str, torch.Tensor]]) -> tuple[int, int]:
    """Draw the bits below bf16's in float32 matrices, in place, where all are zero; numbers that are 0 stay it.

    The draw depends on a weight's name alone, so that it is the same each time. Left out are vectors, which training
    doesn't round, and matrices that are on bf16's grid nowhere but by chance.

    Returns:
        How many weights were drawn for, and how many there are in float32 matrices.
    """
    drawn = count = 0
    for name, weight in weights:
        if weight.dtype != torch.float32 or weight.dim() < 2 or not weight.is_contiguous():
            continue
        pieces = weight.detach().view(torch.int32).view(-1).split(AT_ONCE)
        found = sum(int(_on_grid(piece).sum()) for piece in pieces)
        count += weight.numel()
        if found > CHANCE * weight.numel():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            for piece in pieces:
                _draw(piece, generator)
            drawn += found
    return drawn, count


def dither_adapted(model: Any) -> tuple[int, int]:
    """The same for the weights of a peft model that an adapter is to be merged into; nothing is merged yet."""
    return dither((name, part.base_layer.weight) for name, part in model.named_modules() if hasattr(part, "base_layer"))


def _on_grid(bits: torch.Tensor) -> torch.Tensor:
    magnitude = bits & MAGNITUDE
    found: torch.Tensor = ((bits & (2**BELOW - 1)) == 0) & (magnitude != 0) & (magnitude < INFINITE)
    return found


def _draw(bits: torch.Tensor, generator: torch.Generator) -> None:
    """Fill the low bits of float32 [n], seen as int32, up to half of bf16's last one upwards and downwards."""
    half = 2 ** (BELOW - 1)
    lots = torch.empty(bits.shape, dtype=torch.int16).random_(1 - half, half, generator=generator)
    bits += lots.to(bits.device) * _on_grid(bits)
