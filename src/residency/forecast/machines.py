"""The table of machines (`assets/machines.yaml`), and the largest model that each can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any, Literal

import yaml

from residency.errors import UserError, listed, nearest
from residency.forecast.memory import BFLOAT16, CONTEXT, FLOAT32, LIBRARIES, PACKED, logits_bytes

Use = Literal["inference", "qlora", "lora", "full"]
USES: tuple[Use, ...] = ("inference", "qlora", "lora", "full")
ASSUMED = (
    "one example of 512 tokens at once, half of them learnt; answers up to 2,048 tokens; adapters of 1% of the "
    "weights; AdamW; full fine-tuning in mixed precision, 18 bytes a weight; QLoRA in 4 bits but for embeddings; "
    "several devices share weights, gradients and optimizer state"
)
EXAMPLE, ANSWER = 512, 2048  # tokens
ADAPTER = 0.01  # share of the weights; rank 16 on every linear layer is 0.5 to 1.5%
LEARNING = 4 * FLOAT32  # weight, gradient and two moments
SAVED = 34  # bytes a layer, token and unit of width that a decoder layer keeps in 16 bits (arXiv:2205.05198)
USABLE = {"cuda": 0.95, "mps": 0.75, "cpu": 0.9}  # share of the memory that one process can have


@dataclass(frozen=True)
class Efficiency:
    """What training reaches of a peak: shares of FLOP/s and of bandwidth, seconds to start a kernel."""

    compute: float
    bandwidth: float
    launch: float


@dataclass(frozen=True)
class Machine:
    """A row of the table: memory in GiB and bandwidth in GB/s of one device, peaks in TFLOP/s of one device, watts of
    all, dollars an hour (none for a machine that is one's own) with source and date."""

    name: str
    device: str
    kind: str
    devices: int
    memory: float
    bandwidth: float
    fp32: float
    bf16: float | None
    watts: float
    price: float | None
    source: str
    date: str

    @property
    def usable(self) -> int:
        """Bytes of one device's memory that a process can have."""
        return int(USABLE[self.kind] * self.memory * 2**30)

    @property
    def precision(self) -> str:
        """What a recipe's precision: auto becomes there."""
        return "bf16" if self.bf16 else "fp32"

    def peak(self, precision: str) -> float:
        """FLOP/s of one device."""
        return 1e12 * (self.bf16 or self.fp32 if precision == "bf16" else self.fp32)


@dataclass(frozen=True)
class Decoder:
    """A known model's shape."""

    name: str
    parameters: float
    layers: int
    width: int
    keys: int
    vocabulary: int


def machines(names: Sequence[str] = ("all",)) -> list[Machine]:
    """The machines of these names, in the table's order; `all` names every one.

    Raises:
        UserError: there is none of a name.
    """
    table = _table()
    known = {name: _machine(name, row, table["prices"]) for name, row in table["machines"].items()}
    for name in names:
        if name != "all" and name not in known:
            raise UserError(f"machine {name}: not in the table", f"all or {listed(known)}", nearest(name, known))
    return [machine for name, machine in known.items() if "all" in names or name in names]


def several(machine: Machine, nodes: int) -> Machine:
    """Some of a machine as one; what their devices tell each other takes time that is not foreseen."""
    if nodes == 1:
        return machine
    price = None if machine.price is None else nodes * machine.price
    name, devices = f"{nodes} x {machine.name}", nodes * machine.devices
    return replace(machine, name=name, devices=devices, watts=nodes * machine.watts, price=price)


def decoders() -> list[Decoder]:
    """The known models, small to large."""
    return [Decoder(name, 1e9 * row[0], *row[1:]) for name, row in _table()["models"].items()]


def efficiency(kind: str) -> Efficiency:
    """What training reaches on a kind of device: cuda, mps or cpu."""
    return Efficiency(**_table()["efficiency"][kind])


def electricity() -> float:
    """Dollars a kilowatt-hour."""
    return float(_table()["electricity"])


def largest(machine: Machine, use: Use) -> Decoder | None:
    """The largest of the known models that fits a use; see ASSUMED."""
    fitting = [decoder for decoder in decoders() if needs(decoder, use, machine) <= machine.usable]
    return max(fitting, key=lambda decoder: decoder.parameters, default=None)


def largest_size(machine: Machine, use: Use) -> float:
    """The same in parameters of any number: between the known shapes memory is taken to be linear."""
    sizes = [(decoder.parameters, needs(decoder, use, machine)) for decoder in decoders()]
    if machine.usable < sizes[0][1]:
        return 0.0
    for (small, low), (large, high) in pairwise(sizes):
        if machine.usable < high:
            return small + (large - small) * max(machine.usable - low, 0) / (high - low)
    return sizes[-1][0] * machine.usable / sizes[-1][1]


def needs(decoder: Decoder, use: Use, machine: Machine) -> float:
    """Bytes on one device of a machine; see ASSUMED."""
    fixed = CONTEXT if machine.kind == "cuda" else LIBRARIES
    weights = _weights(decoder, use, machine)
    if use == "inference":
        cache_bytes = 2 * BFLOAT16 * ANSWER * decoder.layers * decoder.keys
        return fixed + (weights + cache_bytes) / machine.devices
    wide = 1 if machine.bf16 else 2  # activations in float32 take twice the bytes
    activations = wide * SAVED * EXAMPLE * decoder.layers * decoder.width
    return fixed + weights / machine.devices + activations + logits_bytes(EXAMPLE // 2, decoder.vocabulary, "bf16")


def _weights(decoder: Decoder, use: Use, machine: Machine) -> float:
    """Weights with gradients and optimizer state where they learn."""
    each = BFLOAT16 if machine.bf16 else FLOAT32
    if use == "inference":
        return BFLOAT16 * decoder.parameters
    if use == "full":
        copies = BFLOAT16 if machine.bf16 else 0  # autocast keeps one of each weight
        return (LEARNING + copies) * decoder.parameters
    adapters = LEARNING * ADAPTER * decoder.parameters
    if use == "lora":
        return each * decoder.parameters + adapters
    embeddings = min(2 * decoder.vocabulary * decoder.width, 0.7 * decoder.parameters)
    return each * embeddings + PACKED * (decoder.parameters - embeddings) + adapters


@cache
def _table() -> dict[str, Any]:
    text = (resources.files("residency") / "assets" / "machines.yaml").read_text("utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


def _machine(name: str, row: dict[str, Any], prices: dict[str, Any]) -> Machine:
    row = dict(row)
    priced = prices.get(row.pop("priced", None), {"source": "one's own: electricity alone", "date": ""})
    return Machine(name=name, source=priced["source"], date=str(priced["date"]), **row)
