"""Memory of a run by part and by phase, in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import torch

from residency.forecast.trace import Batch, Trace

FLOAT32, BFLOAT16 = 4, 2
# Bytes of a weight in NF4: half a byte, a scale for each 64, a scale for each 256 of those (arXiv:2305.14314).
PACKED = 0.5 + (1 + 4 / 256) / 64
# What an allocator holds over what is alive, after steps with micro-batches of ever other sizes and in passes that keep
# nothing: glibc keeps fragments between the blocks (0.95 to 2.2 times and 1.5 in the middle of the settings of
# benchmarks/forecast_accuracy.py, and longer runs have more); a GPU's caching allocator rounds and splits its segments.
FRAGMENTS = {"cpu": 1.6, "cuda": 1.1, "mps": 1.1}
# The same where layers are compiled on a CPU, over what the plain ones would have alive: they keep less (0.7 and
# 0.95 for the built-in model, full and LoRA; 1.1 and 1.4 for two small ones).
FRAGMENTS_COMPILED = 0.95
FRAGMENTS_OF_A_PASS = {"cpu": 1.6, "cuda": 1.1, "mps": 1.1}
KERNELS = 160 * 2**20  # what oneDNN compiles for the shapes of a run
CONTEXT = 512 * 2**20  # a CUDA context with the kernels that are loaded
LIBRARIES = 640 * 2**20  # Python with torch, transformers, peft and polars; where it can't be looked at
LARGEST_TEMPORARIES = {"adamw": 0, "adafactor": 3, "adamw-8bit": 1, "muon": 3}  # copies of the largest tensor in a step


@dataclass(frozen=True)
class Counts:
    """A model about to be trained, in numbers and bytes; `base` is its size before adapters came to it."""

    parameters: int
    trainable: int
    base: int
    weights: int
    gradients: int
    optimizer: int
    temporary: int
    vocabulary: int
    precision: str
    merged: bool  # adapters are merged into a float32 base at the end
    file: int  # bytes of the base's weight files

    @property
    def saved(self) -> int:
        """Bytes of a checkpoint: what learns, which its gradients are as large as, and the optimizer's state."""
        return self.gradients + self.optimizer


@dataclass(frozen=True)
class Answering:
    """Generation: `prefill` over the prompts, the cache's bytes at the last token, and the likelihoods after it."""

    prefill: int
    cache: int
    likelihood: int


@dataclass(frozen=True)
class Phase:
    """Bytes held in a phase; `mapped` are a file's pages, which the system takes back when memory grows short."""

    held: int
    mapped: int = 0

    @property
    def peak(self) -> int:
        """Both, as a process monitor shows them."""
        return self.held + self.mapped


@dataclass(frozen=True)
class Memory:
    """A training step's memory by part, and every phase of the run; bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    overhead: int
    phases: dict[str, Phase]

    @property
    def peak(self) -> int:
        """The most that the run will show at once."""
        return max(phase.peak for phase in self.phases.values())

    @property
    def training_peak(self) -> int:
        """The same without the evaluation, which is a stage of its own."""
        return max(phase.peak for name, phase in self.phases.items() if not name.startswith("answer"))

    @property
    def needed(self) -> int:
        """The most that has to fit for the training: file pages can be taken back."""
        return max(phase.held for name, phase in self.phases.items() if not name.startswith("answer"))

    @property
    def answers_needed(self) -> int:
        """The most that has to fit for the evaluation; smaller with a smaller `evaluate.batch`."""
        return max((phase.held for name, phase in self.phases.items() if name.startswith("answer")), default=0)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        phases = {name: asdict(phase) | {"peak": phase.peak} for name, phase in self.phases.items()}
        return asdict(self) | {
            "phases": phases,
            "peak": self.peak,
            "training_peak": self.training_peak,
            "needed": self.needed,
            "answers_needed": self.answers_needed,
        }


def count(model: Any, optimizer: str, *, base: int, precision: str, file: int = 0, packed: bool = False) -> Counts:
    """The counts of a model, real or on the meta device, and of an optimizer by its name in a recipe.

    `base`: how many parameters it had before adapters; `file`: bytes of the weight files, 4 a parameter when left out;
    `packed`: frozen products will be packed to 4 bits, all but the output head.
    """
    every = list(model.parameters())
    learn = [parameter for parameter in every if parameter.requires_grad]
    total = sum(p.numel() for p in every)
    return Counts(
        parameters=total,
        trainable=sum(p.numel() for p in learn),
        base=base,
        weights=_bytes(every) - (_saved_by_packing(model) if packed else 0),
        gradients=_bytes(learn),
        optimizer=optimizer_bytes(optimizer, [tuple(p.shape) for p in learn]),
        temporary=LARGEST_TEMPORARIES.get(optimizer, 0) * max(map(_size, learn), default=0),
        vocabulary=model.get_output_embeddings().weight.shape[0],
        precision=precision,
        merged=total != base,
        file=file or FLOAT32 * base,
    )


def optimizer_bytes(optimizer: str, shapes: Iterable[Sequence[int]]) -> int:
    """Bytes of an optimizer's state over float32 tensors of these shapes, as the installed libraries keep it.

    AdamW: two moments and a step count. Adafactor without momentum (arXiv:1804.04235): a row and a column of a matrix.
    AdamW in 8 bits (arXiv:2110.02861): two bytes, and two float32 for each 256, but float32 below 4,096 values.
    Muon: one momentum for a matrix, AdamW for the rest.
    """
    return sum(_STATE[optimizer](tuple(shape)) for shape in shapes)


def _adamw(shape: tuple[int, ...]) -> int:
    return 2 * FLOAT32 * prod(shape) + FLOAT32


def _adafactor(shape: tuple[int, ...]) -> int:
    if len(shape) < 2:
        return FLOAT32 * prod(shape)
    return FLOAT32 * (prod(shape[:-1]) + prod(shape[:-2]) * shape[-1])


def _eight_bits(shape: tuple[int, ...]) -> int:
    size = prod(shape)
    return _adamw(shape) if size < 4096 else 2 * size + 2 * FLOAT32 * -(-size // 256) + FLOAT32


def _muon(shape: tuple[int, ...]) -> int:
    return FLOAT32 * prod(shape) if len(shape) == 2 else _adamw(shape)


_STATE = {"adamw": _adamw, "adafactor": _adafactor, "adamw-8bit": _eight_bits, "muon": _muon}


def logits_bytes(learnt: int, vocabulary: int, precision: str) -> int:
    """The logits at the learnt positions, their float32 copy and their log-probabilities: what cross-entropy holds."""
    each = BFLOAT16 + 2 * FLOAT32 if precision == "bf16" else 2 * FLOAT32
    return learnt * vocabulary * each


def forecast(
    counts: Counts,
    training: tuple[Batch, Trace],
    validation: Trace | None,
    answering: Answering | None,
    *,
    device: str = "cpu",
    base: int = LIBRARIES,
    fragments: float | None = None,
    compiled: bool = False,
) -> Memory:
    """Memory of a run from the counts of its model and the traces of its largest micro-batches.

    `base`: what the process holds before a model is loaded. `fragments`: what the allocator holds over what is alive in
    a step. `compiled`: the layers are.
    """
    usual = FRAGMENTS_COMPILED if compiled and device == "cpu" else FRAGMENTS[device]
    spread, passing = fragments or usual, FRAGMENTS_OF_A_PASS[device]
    start = base if device == "cpu" else CONTEXT
    batch, traced = training
    logits = min(logits_bytes(batch.learnt, counts.vocabulary, counts.precision), traced.peak)
    kernels = KERNELS if device == "cpu" and not fragments else 0
    fixed = start + kernels + counts.weights + counts.optimizer
    phases = {
        "load": Phase(start + counts.weights, _mapped(counts.file, device)),
        "training step": Phase(fixed + counts.gradients + max(int(spread * traced.peak), counts.temporary)),
    }
    if validation is not None:
        phases["validation"] = Phase(fixed + int(passing * validation.peak))
    phases["checkpoint"] = Phase(fixed, 0 if counts.merged else _mapped(counts.weights, device))
    phases["merge and save" if counts.merged else "save"] = _saving(counts, start, device)
    if answering is not None:
        phases |= _answering(counts, answering, start, passing, device)
    return Memory(
        weights=counts.weights,
        gradients=counts.gradients,
        optimizer=counts.optimizer,
        activations=traced.peak - logits,
        logits=logits,
        overhead=phases["training step"].held - counts.weights - counts.gradients - counts.optimizer - traced.peak,
        phases=phases,
    )


def shared(memory: Memory, ranks: int, unit: int, casts: int = 0) -> Memory:
    """The memory on each of several devices that share out weights, gradients and optimizer state (FSDP).

    `unit`: bytes of the largest part of the model that is gathered to be computed with; the next one comes meanwhile.
    `casts`: bytes of the weights in 16 bits that autocast keeps over a step, and FSDP gathers as it goes instead.
    """
    parts = {"weights": memory.weights, "gradients": memory.gradients, "optimizer": memory.optimizer}
    held_in = {"load": ("weights",), "training step": tuple(parts), "merge and save": ()}
    gathered, phases = 2 * unit, {}
    for name, phase in memory.phases.items():
        if name.startswith("answer"):
            phases[name] = phase
            continue
        whole = sum(parts[part] for part in held_in.get(name, ("weights", "optimizer")))
        here = gathered - casts if name in ("training step", "validation") else 0
        phases[name] = Phase(phase.held - whole + whole // ranks + here, phase.mapped)
    shares = {name: size // ranks for name, size in parts.items()}
    activations = memory.activations - casts
    return replace(memory, **shares, activations=activations, overhead=memory.overhead + gathered, phases=phases)


def _saving(counts: Counts, start: int, device: str) -> Phase:
    """A merged model is made on the CPU from a fresh base; a model trained whole is written as it stands."""
    whole = FLOAT32 * counts.base
    if counts.merged:
        return Phase(start + (whole if device == "cpu" else 0), _mapped(max(whole, counts.file), device))
    return Phase(start + counts.weights + counts.optimizer, _mapped(whole, device))


def _answering(counts: Counts, answering: Answering, start: int, spread: float, device: str) -> dict[str, Phase]:
    weights = (BFLOAT16 if counts.precision == "bf16" else FLOAT32) * counts.base
    alive = max(answering.prefill, answering.cache, answering.likelihood)
    return {
        "answers: load": Phase(start + weights, _mapped(FLOAT32 * counts.base, device)),
        "answers": Phase(start + weights + int(spread * alive)),
    }


def _saved_by_packing(model: Any) -> int:
    head = model.get_output_embeddings()
    linear = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head]
    frozen = [part.weight for part in linear if not part.weight.requires_grad]
    return sum(_size(weight) - int(PACKED * weight.numel()) for weight in frozen)


def _mapped(size: int, device: str) -> int:
    return size if device == "cpu" else 0


def _bytes(parameters: Iterable[Any]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _size(parameter: Any) -> int:
    return int(parameter.numel() * parameter.element_size())
