"""What one micro-batch holds and computes, found without memory or time: a model of fake tensors goes through it.

Fake tensors have shape, type and device, and no values. Every operation of the real forward and backward pass is done
on them, and the bytes alive are counted as tensors come and go: no formula for a family of models has to be right.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from residency import packing, row_attention
from residency.gradients import added_in_place
from residency.loss import fused, fused_loss

Build = Callable[[Any], Any]  # a model's configuration to the model itself, ready to be trained
ATEN = torch.ops.aten


def _by_row(asking: Any, both: Any, _blocks: Any, area: int, *_: Any, **__: Any) -> int:
    """Two products: of queries and keys, and of probabilities and values."""
    heads, queries, size = asking.shape
    return int(4 * heads * (queries // both.shape[2]) * area * size)


def _by_row_backward(
    _gradient: Any, asking: Any, both: Any, _held: Any, blocks: Any, area: int, *_: Any, **__: Any
) -> int:
    """Four products: into probabilities and values, queries and keys."""
    return 2 * _by_row(asking, both, blocks, area)


FLOPS = {  # torch counts the operations of a GPU's attention kernels; a CPU's do the same
    **flop_registry,
    ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[ATEN._scaled_dot_product_flash_attention],
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        ATEN._scaled_dot_product_flash_attention_backward
    ],
    torch.ops.residency.attend: _by_row,
    torch.ops.residency.attend_backward: _by_row_backward,
}
SHALLOW, DEEPER = 1, 2  # layers; each further layer is the same (2 and 4 gave the same to the byte)


@dataclass(frozen=True)
class Batch:
    """A micro-batch as `batches.collate` pads it; `learnt` positions go through the output head.

    `packed`: the tokens that go through the layers where its rows are laid end to end; 0 where they are padded.
    `area`, `kept`: of attention that goes through the rows as they lie, see `row_attention.Rows`; 0 with any other.
    """

    rows: int
    width: int
    learnt: int
    packed: int = 0
    area: int = 0
    kept: int = 0

    @property
    def tokens(self) -> int:
        """Those that go through the layers, padding included."""
        return self.packed or self.rows * self.width

    @property
    def scores(self) -> int:
        """Those of attention, for one head."""
        return self.area or self.rows * self.width**2


@dataclass(frozen=True)
class Trace:
    """One micro-batch: bytes over those of the weights and gradients, and floating-point operations.

    `saved` is what the forward pass leaves for the backward pass, `peak` the most that was alive at any moment.
    """

    saved: int
    peak: int
    flops: int
    forward: int = 0  # of the operations, those of the forward pass


def trace(
    model: Any,
    batch: Batch,
    *,
    autocast: bool = False,
    backward: bool = True,
    cache: bool = False,
    in_place: bool = False,
) -> Trace:
    """Go through a micro-batch with a model, real or on the meta device; its weights are not read and not changed.

    `autocast`: products in bf16, as in mixed-precision training. `cache`: keep keys and values, as when answering.
    `in_place`: the embeddings' and the head's gradients are added where they are (`added_in_place`).
    """
    alive = _Alive()
    as_it_goes = ExitStack()
    with FakeTensorMode(allow_non_fake_inputs=True), alive, _faked(model), as_it_goes:
        if batch.packed:
            as_it_goes.enter_context(packing.packed_attention(model))
        if in_place:
            as_it_goes.enter_context(added_in_place(model))
        if backward:
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        before = alive.now
        alive.peak = before
        with torch.set_grad_enabled(backward), torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            loss, _kept = _forward(model, batch, cache)
        saved, forward = alive.now - before, alive.flops - (_made_early(model, batch) if backward else 0)
        if backward:
            loss.backward()
    return Trace(saved, alive.peak - before, alive.flops, forward)


def trace_by_depth(build: Build, config: Any, batch: Batch, *, apart: int = 0, **options: Any) -> Trace:
    """The same for a model of any depth, from two shallow ones: each further layer holds and computes the same.

    All but the last `apart` layers, which both shallow models have.
    """
    layers = int(getattr(config, "num_hidden_layers", 0))
    shallow, deeper = SHALLOW + apart, DEEPER + apart
    if layers <= deeper:
        return trace(build(config), batch, **options)
    low, high = (trace(build(_cut(config, depth)), batch, **options) for depth in (shallow, deeper))

    def at_depth(name: str) -> int:
        first, second = getattr(low, name), getattr(high, name)
        return int(first + (second - first) * (layers - shallow) / (deeper - shallow))

    return Trace(at_depth("saved"), at_depth("peak"), at_depth("flops"), at_depth("forward"))


def _cut(config: Any, layers: int) -> Any:
    """The configuration with fewer layers; lists of a value a layer are cut too."""
    whole = int(config.num_hidden_layers)
    shallow = deepcopy(config)
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == whole:
            setattr(shallow, name, value[:layers])
    shallow.num_hidden_layers = layers
    return shallow


def _forward(model: Any, batch: Batch, cache: bool) -> tuple[torch.Tensor, Any]:
    """The loss as `loss.summed_loss` takes it, and the cache, which must stay alive.

    Fake tensors have no values to choose positions by, so that these are given by their places.
    """
    places = torch.zeros(batch.learnt, dtype=torch.long)
    inputs = _inputs(batch)
    if fused(model) and not cache:
        loss = fused_loss(model, inputs, lambda hidden: hidden.flatten(0, 1)[places], torch.zeros_like(places))
        if loss is not None:
            return loss, None
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, given: (given[0].flatten(0, 1)[places],))
    try:
        output = model(**inputs, use_cache=cache)
    finally:
        hook.remove()
    losses = torch.nn.functional.cross_entropy(output.logits.float(), torch.zeros_like(places), reduction="none")
    return losses.sum(), getattr(output, "past_key_values", None)


def _inputs(batch: Batch) -> dict[str, Any]:
    ids = torch.zeros(batch.rows, batch.width, dtype=torch.long)
    if not batch.packed:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    own = torch.zeros(batch.packed, dtype=torch.long)
    if batch.area:
        by_row = row_attention.Rows(torch.zeros(4 * batch.rows, dtype=torch.long), batch.area, batch.kept)
        return {"input_ids": own[None], "position_ids": own[None], "packed": by_row}
    mask = torch.zeros(1, 1, batch.width, batch.width, dtype=torch.bfloat16)
    rows = packing.Rows(ids, own, own, torch.ones_like(ids, dtype=torch.bool), mask, 0)
    return {"input_ids": own[None], "position_ids": own[None], "packed": rows}


def _made_early(model: Any, batch: Batch) -> int:
    """Operations of the head's backward pass that `loss.fused_loss` does in the forward pass."""
    if not fused(model):
        return 0
    head = model.get_output_embeddings()
    early = 2 if head.weight.requires_grad and not getattr(head, "_in_place", False) else 1
    return 2 * batch.learnt * int(head.weight.numel()) * early


@contextmanager
def _faked(model: Any) -> Iterator[None]:
    """Fake weights in the model's places while the block runs; tied ones stay tied."""
    fakes: dict[int, Any] = {}
    stores = [store for module in model.modules() for store in (module._parameters, module._buffers)]
    originals = [dict(store) for store in stores]
    try:
        for store in stores:
            for name, tensor in store.items():
                if tensor is not None:
                    store[name] = fakes.setdefault(id(tensor), _fake(tensor))
        yield
    finally:
        for store, original in zip(stores, originals, strict=True):
            store.update(original)


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return torch.nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else empty


class _Alive(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, the most there have been, and operations (torch's counts)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak, self.flops = 0, 0, 0
        self.known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        counts = FLOPS.get(func._overloadpacket)
        if counts is not None:
            self.flops += int(counts(*args, **(kwargs or {}), out_val=result))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: Any) -> None:
        key = id(storage)
        if key in self.known:
            return
        size = storage.nbytes()
        self.known[key] = weakref.ref(storage, lambda _: self._gone(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int) -> None:
        if self.known.pop(key, None) is not None:
            self.now -= size
