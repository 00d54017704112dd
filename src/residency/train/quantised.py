"""What bitsandbytes does: weights in 4 bits (QLoRA) and AdamW in 8 bits; tried before a run counts on it."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from residency.errors import UserError, reason_of
from residency.models import forget_quantiser, load_base, quiet_libraries
from residency.progress import Progress
from residency.recipe import ModelSection


def need(field: str, device: torch.device) -> None:
    """Raise unless bitsandbytes is there and computes on this device; `field` is what in the recipe asks for it.

    Raises:
        UserError: it is missing, or can't pack weights or take a step here.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{field}: bitsandbytes is not installed", fix="`pip install 'residency[quantised]'` brings it")
    try:
        with quiet_libraries():
            _try(device)
    except Exception as error:
        raise UserError(
            f"{field}: bitsandbytes can't compute on this machine's {device.type} ({reason_of(error)})",
            fix="use another device or a newer bitsandbytes, or the method lora with the optimizer adamw",
        ) from error


def _try(device: torch.device) -> None:
    """Pack a weight, go through it forward and backward, and take a step in 8 bits."""
    import bitsandbytes

    packed = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4").to(device)
    inputs = torch.nn.Parameter(torch.ones(64, 64, device=device))
    packed(inputs).sum().backward()
    bitsandbytes.optim.AdamW8bit([inputs], lr=1e-3).step()


def load_packed(
    section: ModelSection, dtype: torch.dtype, attention: str = "sdpa", progress: Progress | None = None
) -> Any:
    """The base in NF4 with its scales packed too (Dettmers et al. 2023, arXiv:2305.14314); it computes in `dtype`."""
    from transformers import BitsAndBytesConfig

    packing = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = load_base(section, dtype, attention, progress, packing)
    part: Any
    for part in model.modules():
        # On a CPU with AVX-512 its kernel for answering repacks the weights with coarser scales, and keeps them so:
        # the first validation would change the model that is being trained.
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False
    return model


def unpacked(section: ModelSection) -> Any:
    """The base as an adapter saw it in training: its weights packed to 4 bits and unpacked to float32.

    Merged into the weights before packing, the adapter would also be asked to undo an error that it was trained with.
    """
    with quiet_libraries():
        model = load_packed(section, torch.float32).dequantize(dtype=torch.float32).eval()
    forget_quantiser(model)
    return model
