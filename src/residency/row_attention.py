"""Causal attention of rows that lie end to end, each by itself and a block of its queries at a time.

No query meets the keys after its block, which halves the work of a long row, and no row is padded. Heads that share
their keys and values are multiplied with them at once. torch's own attention for a CPU leaves out the same keys, and
takes two to three times as long, forward and backward (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch

AREA = 2**16  # scores of a head in one block, about: with a few heads a core's cache holds them
# Queries of a block, if the row has as many: with fewer the products grow slow, of 4,096 tokens twice as slow.
LEAST = 128
LONGEST_KEPT = 1024  # keys of a block whose probabilities are kept for the backward pass; of more they are made anew
KNOWN = {"sliding_window", "position_ids", "cache_position"}  # tensors and numbers that change nothing here


class Rows(NamedTuple):
    """Where the rows of a packed batch lie.

    `blocks` [blocks * 4], int64, for each one after the other: the place where the row's own tokens begin, the first
    query, the one after the last, and how many tokens before its own it shares with the first row, at places from 0 on.
    `area`: scores of all blocks and one head. `kept`: of them, those whose probabilities are kept for the backward
    pass. No size is ever 0 or 1: a compiler would make another piece for it.
    """

    blocks: torch.Tensor
    area: int
    kept: int


def rows_of(lengths: Sequence[int], shared: int) -> Rows:
    """The blocks of rows with so many tokens of their own, end to end; the first holds the `shared` tokens too."""
    blocks, first = [], 0
    for length in lengths:
        before = shared if first else 0
        size = max(AREA // (before + length), LEAST)
        parts = -(-length // size)
        edges = [first + length * part // parts for part in range(parts + 1)]
        blocks += [(first, start, stop, before) for start, stop in pairwise(edges)]
        first += length
    sizes = [(stop - start, before + stop - first) for first, start, stop, before in blocks]
    kept = sum(queries * keys for queries, keys in sizes if keys <= LONGEST_KEPT)
    area = sum(queries * keys for queries, keys in sizes)
    return Rows(torch.tensor(list(chain.from_iterable(blocks))), max(area, 2), max(kept, 2))


def attention(  # noqa: PLR0917  (as transformers hands them on)
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: Any,
    packed: Rows,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' attention interface calls it: [1, heads, tokens, size]; returns [1, tokens, heads, size].

    Raises:
        ValueError: the model asks for more than plain attention (a cap on scores, sinks).
    """
    strange = [name for name, given in others.items() if changes(name, given)]
    if strange or query.shape[-1] != value.shape[-1]:
        reason = ", ".join(strange) or "keys and values of different sizes"
        raise ValueError(f"the attention of this model is of a kind of its own ({reason})")
    dtype = format_of(value)
    heads, size = key.shape[1], key.shape[3]
    scale = size**-0.5 if scaling is None else scaling
    asking = (query[0] * scale).to(dtype).unflatten(0, (heads, -1)).transpose(1, 2).flatten(1, 2).contiguous()
    both = torch.stack([key[0].to(dtype), value[0].to(dtype)])
    dropout = dropout if module.training else 0.0
    seed = torch.randint(2**31, ()) if dropout else torch.zeros((), dtype=torch.int64)
    found, _ = torch.ops.residency.attend(asking, both, packed.blocks, packed.area, packed.kept, dropout, seed)
    return found.unflatten(1, (-1, query.shape[1] // heads)).transpose(0, 1).flatten(1, 2)[None], None


@torch.library.custom_op("residency::attend", mutates_args=())
def _attend(  # noqa: PLR0917
    asking: torch.Tensor,
    both: torch.Tensor,
    blocks: torch.Tensor,
    area: int,
    kept: int,
    dropout: float,
    seed: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each token finds [heads, tokens * group, size], and the probabilities that are kept [heads, group * kept].

    `asking` [heads, tokens * group, size]: the queries of each token, scaled, those of a group of heads that share keys
    and values one after the other. `both` [2, heads, tokens, size]: keys and values. `area` is for the forecast.
    """
    heads, group = asking.shape[0], asking.shape[1] // both.shape[2]
    out, held = torch.empty_like(asking), _Held(asking.new_empty(heads * group * kept))
    drop = _Dropout(dropout, seed) if dropout else None
    for first, start, stop, shared in blocks.view(-1, 4).tolist():
        keys, values = _seen(both, first, stop, shared)
        place = slice(start * group, stop * group)
        found = _probabilities(asking[:, place], keys, stop - start, held)
        torch.bmm(found if drop is None else found * drop.like(found), values, out=out[:, place])
    return out, held.all


@torch.library.custom_op("residency::attend_backward", mutates_args=())
def _attend_backward(  # noqa: PLR0917
    gradient: torch.Tensor,
    asking: torch.Tensor,
    both: torch.Tensor,
    held: torch.Tensor,
    blocks: torch.Tensor,
    area: int,
    dropout: float,
    seed: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of `asking` and of `both`; what several blocks see is added up in float32."""
    heads, group = asking.shape[0], asking.shape[1] // both.shape[2]
    wide = torch.promote_types(both.dtype, torch.float32)
    to_asking, to_both = torch.empty_like(asking), torch.zeros_like(both, dtype=wide)
    kept, drop = _Held(held), _Dropout(dropout, seed) if dropout else None
    for first, start, stop, shared in blocks.view(-1, 4).tolist():
        keys, values = _seen(both, first, stop, shared)
        place = slice(start * group, stop * group)
        asked, given = asking[:, place], gradient[:, place]
        found = kept.take(heads, asked.shape[1], keys.shape[1])
        if found is None:
            found = _probabilities(asked, keys, stop - start, None)
        scores, passed = torch.bmm(given, values.transpose(1, 2)), found
        if drop is not None:
            mask = drop.like(found)
            scores, passed = scores * mask, found * mask
        torch._softmax_backward_data(scores, found, -1, found.dtype, grad_input=scores)
        torch.bmm(scores, keys, out=to_asking[:, place])
        own = both.new_empty((2, *keys.shape))
        torch.bmm(scores.transpose(1, 2), asked, out=own[0])
        torch.bmm(passed.transpose(1, 2), given, out=own[1])
        to_both[:, :, first:stop] += own[:, :, shared:]
        if shared:
            to_both[:, :, :shared] += own[:, :, :shared]
    return to_asking, to_both.to(both.dtype)


@_attend.register_fake
def _(asking: Any, both: Any, _blocks: Any, _area: int, kept: int, *_: Any) -> tuple[Any, Any]:
    group = asking.shape[1] // both.shape[2]
    return torch.empty_like(asking), asking.new_empty(asking.shape[0] * group * kept)


@_attend_backward.register_fake
def _(_gradient: Any, asking: Any, both: Any, *_: Any) -> tuple[Any, Any]:
    return torch.empty_like(asking), torch.empty_like(both)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    asking, both, blocks, area, _, dropout, seed = inputs
    ctx.save_for_backward(asking, both, output[1], blocks, seed)
    ctx.area, ctx.dropout = area, dropout


def _back(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    *saved, blocks, seed = ctx.saved_tensors
    found = torch.ops.residency.attend_backward(gradient.contiguous(), *saved, blocks, ctx.area, ctx.dropout, seed)
    return *found, None, None, None, None, None


_attend.register_autograd(_back, setup_context=_keep)


def format_of(value: torch.Tensor) -> torch.dtype:
    """What products are computed in: the values' own format, or that of an autocast."""
    kind = value.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype


def changes(name: str, given: Any) -> bool:
    """Whether what a model hands to its attention may change it; other switches are of what it gives besides."""
    if isinstance(given, bool):
        return name == "is_causal" and not given
    return isinstance(given, torch.Tensor | int | float) and name not in KNOWN


class _Held:
    """Probabilities that are kept, block after block."""

    def __init__(self, every: torch.Tensor) -> None:
        self.all, self.taken = every, 0

    def take(self, heads: int, queries: int, keys: int) -> torch.Tensor | None:
        """The place [heads, queries, keys] of the next block; None where its own are not kept."""
        if keys > LONGEST_KEPT:
            return None
        start, self.taken = self.taken, self.taken + heads * queries * keys
        return self.all[start : self.taken].view(heads, queries, keys)


class _Dropout:
    """The same masks for the blocks of a forward and of a backward pass."""

    def __init__(self, share: float, seed: torch.Tensor) -> None:
        self.share, self.generator = share, torch.Generator().manual_seed(int(seed))

    def like(self, found: torch.Tensor) -> torch.Tensor:
        """Zeros, and what makes up for them."""
        return torch.empty_like(found).bernoulli_(1 - self.share, generator=self.generator).div_(1 - self.share)


def _probabilities(asked: torch.Tensor, keys: torch.Tensor, queries: int, held: _Held | None) -> torch.Tensor:
    """Of queries [heads, queries * group, size] and the keys up to the last one's [heads, keys, size]."""
    scores = torch.bmm(asked, keys.transpose(1, 2))
    scores.unflatten(1, (queries, -1))[..., -queries:] += _later(queries, scores.dtype)
    place = held.take(*scores.shape) if held else None
    return torch.softmax(scores, -1) if place is None else torch.softmax(scores, -1, out=place)


@lru_cache(maxsize=64)
def _later(queries: int, dtype: torch.dtype) -> torch.Tensor:
    """Added to scores [heads, queries, group, keys] where a key comes after the query [queries, 1, queries]."""
    return torch.full((queries, queries), torch.finfo(dtype).min, dtype=dtype).triu_(1)[:, None]


def _seen(both: torch.Tensor, first: int, stop: int, shared: int) -> torch.Tensor:
    """The keys and values that a block sees [2, heads, keys, size]."""
    own = both[:, :, first:stop]
    return torch.cat([both[:, :, :shared], own], 2) if shared else own
