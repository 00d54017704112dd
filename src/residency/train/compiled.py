"""The repeated layers of a model as compiled pieces (torch.compile): one for all of them, since they are alike.

Norms, rotations, activations and casts, which a layer does one after the other over memory, become a few loops. The
model stays transformers' own: what is compiled is the call of a layer, and only while a training step goes through it.

A piece is compiled for rows and widths of any number. What a compiler makes of it may still depend on the shape that it
saw first, and a training that was stopped sees another one first. So each kind of batch is shown a batch of a fixed
shape before anything of it is learnt: the pieces, and with them the bits, are the same however often it was stopped.
That batch also goes through the plain layers; where the two don't agree, the plain ones it is.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch._dynamo.config
import torch._functorch.config

from residency import environment, models
from residency.errors import reason_of
from residency.loss import summed_loss
from residency.packing import BY_ROW, drops, pack
from residency.train.int8 import backward, fitting
from residency.train.stopping import is_memory

# Of the batch of a fixed shape: numbers that no model has, or a compiler takes one for the other and makes the piece
# for that number alone (40 was the size of a small model's heads).
ROWS, WIDTH = 11, 23
BEGINNING = 7  # tokens that its rows begin with
# Largest relative differences of loss and gradient norm on the batch of a fixed shape, and what the cosine between the
# layers' gradients may be short of 1.
AGREE = {torch.float32: (1e-4, 1e-3, 1e-3), torch.bfloat16: (1e-2, 0.1, 0.05)}
CACHE, TORCHS_OWN = "TORCHINDUCTOR_CACHE_DIR", "torchinductor_"
CUSTOM = "autograd_cache_allow_custom_autograd_functions"
Kind = tuple[str, bool, bool]
Passed = tuple[float, float, list[torch.Tensor]]  # loss, norm of all gradients, and those inside the layers


class CompiledLayers:
    """The layers of `model`, compiled for each kind of batch when the first of it comes.

    `say` hears once why nothing is compiled, where that is so.
    """

    def __init__(self, model: Any, say: Callable[[str], None], *, bf16: bool = False, int8: bool = False) -> None:
        """`bf16`: training steps compute in it. `int8`: products of the backward pass do (`residency.train.int8`)."""
        self.model, self.say = model, say
        self.bounds = AGREE[torch.bfloat16 if bf16 else torch.float32]
        self.ready: set[Kind] = set()
        self.seconds = 0.0
        self.pieces: list[tuple[Any, Any]] = []  # each layer, and what calls it compiled
        layers = repeated(model)
        self.products = fitting(layers) if int8 else []
        if not layers:
            self._plain("the model doesn't name the layers that it repeats")
        elif environment.compiler() is None:
            self._plain("no C++ compiler is here (g++ or clang++)")
        else:
            _keep_in_own_cache()
            self.pieces = [(layer, torch.compile(layer._call_impl, dynamic=True)) for layer in layers]

    @contextmanager
    def on(self, batch: dict[str, Any]) -> Iterator[None]:
        """Inside this block a pass over `batch` goes through compiled layers."""
        kind = self._kind(batch)
        if self.pieces and kind not in self.ready:
            started = time.perf_counter()
            self._prepare(_fixed(kind, batch["input_ids"].flatten()))
            self.ready.add(kind)
            self.seconds += time.perf_counter() - started
        with self._in_place():
            yield

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """torch calls a layer by its `_compiled_call_impl` where it has one (nn.Module.compile)."""
        for layer, piece in self.pieces:
            layer._compiled_call_impl = piece
        try:
            with warnings.catch_warnings(), _settings(), backward(self.products):
                warnings.filterwarnings("ignore", module="torch")  # what torch.compile tells its developers
                yield
        finally:
            for layer, _ in self.pieces:
                layer._compiled_call_impl = None

    def take_seconds(self) -> float:
        """What it took since this was last asked."""
        found, self.seconds = self.seconds, 0.0
        return found

    def _kind(self, batch: dict[str, Any]) -> Kind:
        """What a piece is made for: the attention, one row or several, and with SDPA whether anything is padded.

        Of a packed batch, whether its rows share a beginning.
        """
        attention = str(self.model.config._attn_implementation)
        if "packed" in batch:
            return attention, False, getattr(batch["packed"], "shared", 0) > 0
        return attention, len(batch["input_ids"]) == 1, attention == "eager" or not bool(batch["attention_mask"].all())

    def _prepare(self, batch: dict[str, Any]) -> None:
        try:
            with self._in_place():
                found = self._go(batch)
        except Exception as error:  # whatever a compiler says, training goes on without it
            if is_memory(error):
                raise
            self._fall_back(batch, reason_of(error), reason_of(error))
            return
        if drops(self.model):
            return
        loss, norm, cosine = apart = self._apart(found, self._go(batch))
        fits = all(far <= bound for far, bound in zip(apart, self.bounds, strict=True))
        if fits and self.products and not self.ready:
            self.say(f"The backward pass is in int8 (train.int8): its cosine with the plain one is {1 - cosine:.4f}")
        if not fits:
            in_int8 = f"there, its cosine with the plain one is {1 - cosine:.4f}, and the loss {loss:.2%} away"
            reason = f"loss and gradient are {loss:.2%} and {norm:.2%} from those of plain ones"
            self._fall_back(batch, in_int8, reason)

    def _fall_back(self, batch: dict[str, Any], in_int8: str, reason: str) -> None:
        """Out of int8 first, and out of compiled layers if that was not it."""
        if self.products:
            self.products = []
            self.say(f"The backward pass stays out of int8: {in_int8}")
            self._prepare(batch)
        else:
            self._plain(reason)

    def _apart(self, found: Passed, plain: Passed) -> tuple[float, float, float]:
        """How far they are from each other, in the measures that `AGREE` bounds."""
        loss, norm = (
            abs(own - wanted) / max(abs(wanted), 1e-9) for own, wanted in zip(found[:2], plain[:2], strict=True)
        )
        one, other = (float(torch.nn.utils.get_total_norm(each)) for each in (found[2], plain[2]))
        both = sum(float((left * right).sum()) for left, right in zip(found[2], plain[2], strict=True))
        return loss, norm, 1 - both / max(one * other, 1e-30) if found[2] else 0.0  # learnt embeddings are outside

    def _go(self, batch: dict[str, Any]) -> Passed:
        """What a pass comes to; gradients that are there stay as they are, and so do the random numbers."""
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        kept = [parameter.grad for parameter in learning]
        for parameter in learning:
            parameter.grad = None
        try:
            with torch.random.fork_rng():
                loss = summed_loss(self.model, batch)
                loss.backward()
            found = [parameter.grad for parameter in learning if parameter.grad is not None]
            inside = [parameter.grad for layer in repeated(self.model) for parameter in layer.parameters()]
            norm = float(torch.nn.utils.get_total_norm(found))
            return float(loss.detach()), norm, [gradient for gradient in inside if gradient is not None]
        finally:
            for parameter, gradient in zip(learning, kept, strict=True):
                parameter.grad = gradient

    def _plain(self, reason: str) -> None:
        self.pieces = []
        self.say(f"Layers are not compiled: {reason}")


def _keep_in_own_cache() -> None:
    """Pieces are kept with the built-in models, unless the user names a folder.

    torch has named one itself by now, in the folder for temporary files, which anything may empty.
    """
    named = os.environ.get(CACHE)
    if named is None or (Path(named).parent == Path(tempfile.gettempdir()) and Path(named).name.startswith(TORCHS_OWN)):
        os.environ[CACHE] = str(models.cache_folder() / "compiled")


@contextmanager
def _settings() -> Iterator[None]:
    """What makes torch.compile's start short: see docs/performance.md.

    A layer's numbers (the scale of its attention) are constants, or it is gone through twice to find that out; and a
    piece with a gradient of its own (`residency.packing`) is kept in the cache, whose key holds the code of both ways.
    """
    with ExitStack() as stack:
        for config, name in ((torch._dynamo.config, "specialize_float"), (torch._functorch.config, CUSTOM)):
            if hasattr(config, name):  # they are not promised to stay
                stack.enter_context(config.patch({name: True}))
        yield


def repeated(model: Any) -> list[torch.nn.Module]:
    """The layers that a model repeats, by what transformers says must stay on one device; none where it doesn't."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found: list[torch.nn.Module] = []
    for part in model.modules():
        if type(part).__name__ in names and not any(part is inner for outer in found for inner in outer.modules()):
            found.append(part)
    return found


def _fixed(kind: Kind, text: torch.Tensor) -> dict[str, Any]:
    """A batch of that kind; its tokens are from `text`, since rounding goes far on what no model has ever seen."""
    attention, alone, padded = kind
    size = WIDTH * (1 if alone else ROWS)
    ids = text.repeat(-(-size // len(text)))[:size].reshape(-1, WIDTH)
    mask, labels = torch.ones_like(ids), ids.clone()
    if padded and not alone:
        mask[1:, -3:], labels[1:, -3:] = 0, -100
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if not attention.startswith("packed_"):
        return batch
    ids[:, :BEGINNING], labels[:, : BEGINNING + 1] = ids[0, :BEGINNING], -100
    apart = attention == BY_ROW
    return pack(batch, share=padded or apart, apart=apart)
