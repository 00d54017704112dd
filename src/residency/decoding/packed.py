"""bf16 weights in the order that oneDNN multiplies them in, while a model answers on a CPU.

Each call on a plain weight packs it anew: of a decoding step's products a third of the time at 16 rows, a seventh at 64
(docs/performance.md). torch's compiler packs in this way; here it is done without a compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from residency import environment

ROWS = 64  # that the order is chosen for; others are multiplied as correctly


@contextmanager
def packed(model: torch.nn.Module) -> Iterator[int]:
    """Inside this block linear layers with bf16 weights on a CPU use packed copies; how many do is handed in.

    None do where oneDNN has no bf16, or where memory for a second copy of the weights is short.
    """
    layers: list[Any] = [module for module in model.modules() if _fits(module)]
    taken = 2 * sum(layer.weight.numel() for layer in layers)
    if not computes_bf16() or 2 * taken > environment.available_memory():
        layers = []
    try:
        for layer in layers:
            weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
            layer.forward = partial(_linear, weight, layer.bias)
        yield len(layers)
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def computes_bf16() -> bool:
    """Whether oneDNN multiplies bf16 on this processor."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fits(module: Any) -> bool:
    return bool(
        type(module) is torch.nn.Linear
        and module.weight.dtype == torch.bfloat16
        and module.weight.device.type == "cpu"
        and "forward" not in module.__dict__  # somebody else's
    )


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, inputs: torch.Tensor) -> Any:
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
