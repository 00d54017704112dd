"""A model in outline, on the meta device: shapes and types as training would have them, and no weights."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from residency import models, untrusted
from residency.recipe import ModelSection, Recipe
from residency.train import adapters


def trained(config: Any, recipe: Recipe, precision: str, attention: str) -> Any:
    """The model as `setup.build_model` prepares it."""
    section = recipe.train
    frozen = section.method in adapters.ON_A_BASE
    dtype = torch.bfloat16 if precision == "bf16" and frozen else torch.float32
    model = base(config, recipe.model, dtype, attention)
    with torch.device("meta"):
        return adapters.attach(model, adapters.in_outline(section))


def base(config: Any, section: ModelSection, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
    """The model before anything was done to it."""
    with torch.device("meta"), models.quiet_libraries():
        return AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            attn_implementation=attention,
            **untrusted.options_of_code(section.trust_remote_code, section.revision, section.base),
        )


@lru_cache(maxsize=16)
def parameters(section: ModelSection) -> int:
    """How many the base model has."""
    return sum(parameter.numel() for parameter in base(models.load_config(section), section).parameters())
