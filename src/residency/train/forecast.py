"""What a run will take: parameters, memory by part, and floating-point operations a step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from residency.prompts import Example
from residency.recipe import TrainSection

OPTIMIZER_BYTES = {"adamw": 8, "adafactor": 0.1, "adamw-8bit": 2, "muon": 4}  # a trainable parameter


@dataclass(frozen=True)
class Summary:
    """The model and the run in numbers, before training. Memory in bytes."""

    method: str
    examples: int
    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    steps: int
    tokens_per_step: float
    flops_per_step: float

    @property
    def memory(self) -> int:
        """All parts together, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def rows(self) -> list[tuple[str, str]]:
        """The summary as lines of a table, with units."""
        share = 100 * self.trainable / self.parameters
        return [
            (
                "parameters",
                f"{self.parameters / 1e6:,.1f} M, {self.trainable / 1e6:,.2f} M of them learn ({share:.1f}%)",
            ),
            ("weights", _gib(self.weights)),
            ("gradients", _gib(self.gradients)),
            ("optimizer state", _gib(self.optimizer)),
            ("activations", f"about {_gib(self.activations)}"),
            ("memory in all", f"about {_gib(self.memory)}, and 0.5 GiB for Python"),
            ("steps", f"{self.steps:,} of {self.tokens_per_step:,.0f} tokens"),
            ("work a step", f"{self.flops_per_step / 1e12:,.2f} TFLOP"),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"memory": self.memory}


def summarise(
    model: Any, examples: Sequence[Example], section: TrainSection, steps: int, tokens_per_batch: int
) -> Summary:
    """Count the parameters and estimate memory and work from the model and the examples in tokens.

    Floating-point operations follow Kaplan et al. 2020 (arXiv:2001.08361): 2 a weight and token forward, 2 backward for
    the activations and 2 for each weight that learns; the output head counts at answer positions alone.
    """
    parameters = list(model.parameters())
    count = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    mean = sum(len(e) for e in examples) / len(examples)
    learnt = sum(e.learnt for e in examples) / len(examples)
    per_step = min(section.examples_per_step, len(examples))
    return Summary(
        method=section.method,
        examples=len(examples),
        parameters=count,
        trainable=trainable,
        weights=sum(p.numel() * p.element_size() for p in parameters),
        gradients=sum(p.numel() * p.element_size() for p in parameters if p.requires_grad),
        optimizer=int(trainable * OPTIMIZER_BYTES[section.optimizer]),
        activations=_activations(model.config, tokens_per_batch, learnt / mean),
        steps=steps,
        tokens_per_step=per_step * mean,
        flops_per_step=per_step * _flops(model, mean, learnt, trainable / count),
    )


def _flops(model: Any, tokens: float, learnt: float, learning: float) -> float:
    """Operations for one example of `tokens` tokens, `learnt` of them through the head; `learning`: trainable share."""
    config = model.config
    head = model.get_output_embeddings().weight
    tied = bool(getattr(config, "tie_word_embeddings", False))
    body = sum(p.numel() for p in model.parameters()) - head.numel() * (1 if tied else 2)
    attention = 4 * config.num_hidden_layers * config.hidden_size * tokens  # a token; scores and their use
    passes = 4 + 2 * min(learning, 1.0)
    return float(passes * (body * tokens + head.numel() * learnt) + 3 * attention * tokens)


def _activations(config: Any, tokens: int, learnt_share: float) -> int:
    """A first estimate: what a decoder layer keeps for its backward pass, in bf16, and the logits twice in float32."""
    inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
    layer = tokens * (12 * config.hidden_size + 6 * inner) * 2
    logits = tokens * learnt_share * config.vocab_size * 4 * 2
    return int(config.num_hidden_layers * layer + logits)


def matrix_product_speed(dtype: torch.dtype, device: torch.device, size: int = 1024, seconds: float = 0.3) -> float:
    """Floating-point operations a second of a matrix product [size, size] on this machine: what MFU is measured by."""
    one, other = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best, ends = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        started = time.perf_counter()
        for _ in range(4):
            one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - started))
    return best


def _gib(count: float) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:,.1f} MiB"
