"""Tiny random models of the families that the fast paths are held against the plain ones with."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PhiConfig,
    Qwen3Config,
)

SIZE = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
GROUPED = SIZE | {"num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "llama, tied": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "gpt-neox": GPTNeoXConfig(**SIZE),
    "gpt-2": GPT2Config(vocab_size=384, n_embd=32, n_layer=3, n_head=4, n_positions=128),
    "qwen3": Qwen3Config(**GROUPED),
    "gemma 3": Gemma3TextConfig(
        **GROUPED, sliding_window=6, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "mistral": MistralConfig(**GROUPED, sliding_window=5),
    "phi": PhiConfig(**SIZE),  # its head has a bias
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
}


def make(family: str, attention: str = "eager") -> Any:
    """A model of the family with random weights in float32, without dropout."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIGS[family], dtype=torch.float32, attn_implementation=attention)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model.train()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the loss's backward pass leaves at each parameter; the parameters are free again afterwards."""
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.grad = None
    return found
