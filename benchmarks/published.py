"""The built-in model as most models are published: in bf16. As it comes, its weights were unpacked of 4 bits."""

from __future__ import annotations

from pathlib import Path

import torch

from residency import models
from residency.recipe import ModelSection


def in_bf16(base: str, folder: Path) -> Path:
    """Write a base model with its weights rounded to bf16, and its tokenizer, into `folder`."""
    section = ModelSection(base=base)
    models.load_base(section, torch.bfloat16).save_pretrained(folder)
    models.load_tokenizer(section).save_pretrained(folder)
    return folder
