"""The rows of a micro-batch laid end to end: padding goes through no layer, and what all rows begin with through one.

A padded batch [rows, width] spends work on padding, and as often as it has rows on the prompt's beginning, which the
template gives to all of them. Laid end to end, each token that has something of its own goes through the layers once.
Attention alone must know the rows again. That of short rows goes over a grid: queries, keys and values are spread to
[rows, width] before, and the outcome is collected after it. Between them is the model's own eager attention, or, where
that is nothing but products and a softmax, the same with a gradient of its own, which keeps the probabilities alone.
Where SDPA would be taken, as for long rows, attention goes through the rows as they lie (`residency.row_attention`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from residency import row_attention
from residency.batches import IGNORED
from residency.prompts import Example

BY_ROW = "packed_by_row"  # what transformers knows the attention of `residency.row_attention` by
# Tokens of the longest row from which a CPU leaves plain attention over a grid: of packed rows for that of each row by
# itself, of padded ones for torch's own (docs/performance.md).
WIDE, WIDE_PADDED = 256, 384
NARROW = 17  # tokens that a layer must look back at least: those of the longest row that packing is tried on
SHARED = 2  # tokens of a beginning that is worth sharing, at least
WINDOWS = ("sliding_window", "attention_chunk_size")  # where a configuration says how far a layer looks back
CAP = "attn_logit_softcapping"  # what a configuration calls a cap on attention's scores
DROPOUTS = ("attention_dropout", "attn_dropout")  # what a configuration calls that which is no module
ATTENTIONS = {"full_attention", "sliding_attention", "chunked_attention"}  # of the kinds of layers, those that fit


class Rows(NamedTuple):
    """Where the tokens of a packed batch belong.

    `grid` [rows, width]: the place of each token among all; padding has place 0. `row`, `column` [tokens]: where each
    stands in its grid, one of the shared beginning in the first row. `owned` [rows, width]: which places of the grid
    those are. `mask` [1, 1, width, width]: added to attention's scores, causal. `shared`: tokens of the beginning.
    """

    grid: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    owned: torch.Tensor
    mask: torch.Tensor
    shared: int


def pack(batch: dict[str, torch.Tensor], *, share: bool, apart: bool = False) -> dict[str, Any]:
    """A padded batch as `batches.collate` makes it, laid end to end.

    Returns input_ids, position_ids and targets (of the next token, -100 where no loss is taken), each [1, tokens], and
    `packed`, the `Rows`. `share`: a beginning that all rows have goes in once; no row's loss is taken within it.
    `apart`: for attention that goes through the rows as they lie (`goes_apart`), whose `row_attention.Rows` they are.
    """
    ids, labels, real = batch["input_ids"], batch["labels"], batch["attention_mask"].bool()
    shared = _beginning(ids, labels, real) if share else 0
    own = real.clone()
    own[1:, :shared] = False
    row, column = own.nonzero(as_tuple=True)
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return {
        "input_ids": ids[own][None],
        "position_ids": column[None],
        "targets": following[own][None],
        "packed": row_attention.rows_of(own.sum(1).tolist(), shared) if apart else _grid(own, row, column, shared),
    }


def _grid(own: torch.Tensor, row: torch.Tensor, column: torch.Tensor, shared: int) -> Rows:
    places = torch.arange(len(row), device=own.device)
    grid = torch.zeros_like(own, dtype=torch.long)
    grid[row, column] = places
    grid[:, :shared] = places[:shared]
    width = own.shape[1]
    mask = torch.full((width, width), torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16, device=own.device)
    return Rows(grid, row, column, own, mask.triu(1)[None, None], shared)


def _beginning(ids: torch.Tensor, labels: torch.Tensor, real: torch.Tensor) -> int:
    """Tokens that all rows begin with, short of the last one before a loss is taken, and of any row's last one."""
    learnt = (labels[:, 1:] != IGNORED).any(0)  # whether the token before predicts something in any row
    first = int((~learnt).cumprod(0).sum())
    limit = min(first, int(real.sum(1).min()) - 1)
    same = (ids[:, :limit] == ids[:1, :limit]).all(0)
    found = int(same.cumprod(0).sum())
    return found if found >= SHARED else 0


def widest(config: Any) -> int:
    """Tokens of the widest row whose attention is plain causal attention: none where layers are of another kind."""
    config = config.get_text_config()
    if set(getattr(config, "layer_types", None) or ()) - ATTENTIONS:
        return 0
    found = [getattr(config, name, None) for name in WINDOWS]
    return min((window for window in found if isinstance(window, int)), default=sys.maxsize)


def eager_of(model: Any) -> Callable[..., Any] | None:
    """The plain attention that the model's own module has for transformers' attention interface, if it has just one."""
    modules = {type(part).__module__ for part in model.modules()}
    found = {getattr(sys.modules.get(name), "eager_attention_forward", None) for name in modules} - {None}
    return found.pop() if len(found) == 1 else None


def unfit(model: Any) -> str:
    """Why this model's rows can't be packed, as far as can be told without trying; empty where they can."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "learnt embeddings stand before each"
    if eager_of(model) is None or widest(model.config) < NARROW:
        return "the attention of this model is of a kind of its own"
    return ""


def drops(model: Any) -> bool:
    """Whether training drops anything at random: then each row has what they begin with to itself."""
    config = model.config.get_text_config()
    in_attention = any((getattr(config, name, None) or 0) > 0 for name in DROPOUTS)
    return in_attention or any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())


def attention_for(config: Any, width: int, *, packs: bool) -> str:
    """The attention, by its name in transformers, that is fastest on a CPU for rows of up to `width` tokens.

    A model that caps its scores has the plain one alone: transformers refuses it torch's own.
    """
    if getattr(config.get_text_config(), CAP, None) is not None:
        return "eager"
    return "sdpa" if width >= (WIDE if packs else WIDE_PADDED) else "eager"


def goes_apart(model: Any) -> bool:
    """Whether attention goes through packed rows as they lie: where torch's own would be taken."""
    return bool(model.config._attn_implementation == "sdpa")


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Inside this block, forward and backward, the model's attention is that of packed batches."""
    config, eager = model.config, eager_of(model)
    assert eager is not None
    before = config._attn_implementation
    if goes_apart(model):
        name, attention = BY_ROW, row_attention.attention
    else:
        name, attention = f"packed_{eager.__module__.rpartition('.')[2]}", _packed(eager)
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        ALL_ATTENTION_FUNCTIONS.register(name, attention)
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def beginning(examples: Sequence[Example]) -> int:
    """Tokens that all these examples begin with, and that are shared where they are packed together."""
    limit = min((min(example.learn_from, len(example)) - 1 for example in examples), default=0)
    first = examples[0].input_ids[: max(limit, 0)] if examples else ()
    for example in examples:
        same = (own == other for own, other in zip(first, example.input_ids, strict=False))
        first = first[: sum(takewhile(bool, same))]
    return len(first) if len(first) >= SHARED else 0


def _packed(inner: Callable[..., Any]) -> Callable[..., Any]:
    def attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        _mask: Any,
        packed: Rows,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Query, key and value [1, heads, tokens, size]; returns [1, tokens, heads, size]."""
        each = query, key, value
        if plain := _is_plain(module, each, kwargs):
            dtype = row_attention.format_of(value)
            each = query.to(dtype), key.to(dtype), value.to(dtype)
        rows = [_Spread.apply(x, packed) for x in each]  # type: ignore[no-untyped-call]
        if plain:
            scaling = kwargs.get("scaling")
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            found = _Attended.apply(*rows, packed.mask, scale).transpose(1, 2)  # type: ignore[no-untyped-call]
        else:
            found, _ = inner(module, *rows, packed.mask.to(query.dtype), **kwargs)
        return _Collect.apply(found, packed), None  # type: ignore[no-untyped-call]

    return attention


def _is_plain(module: Any, each: tuple[torch.Tensor, ...], given: dict[str, Any]) -> bool:
    """Whether attention is two products and a softmax, by what a model hands to it; trying it decides (`Packing`)."""
    query, key, value = each
    drops_some = module.training and given.get("dropout")
    more = any(row_attention.changes(name, one) for name, one in given.items() if name not in {"scaling", "dropout"})
    return not drops_some and not more and key.shape == value.shape and query.shape[1] % key.shape[1] == 0


class _Attended(torch.autograd.Function):
    """Attention of query [rows, heads, width, size] to key and value, whose heads each serve a group of the queries'.

    `mask` is added to the scores times `scale`. For the backward pass scores are not kept, nor anything in float32.
    """

    @staticmethod
    def forward(  # noqa: PLR0917  (as torch hands them on)
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        rows, heads, width, size = query.shape
        shape = rows, key.shape[1], heads // key.shape[1] * width, size
        asking = query.reshape(shape)
        scores = (asking @ key.transpose(2, 3)).view(rows, heads, width, width) * scale + mask
        found = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype).view(*shape[:3], width)
        ctx.save_for_backward(asking, key, value, found)
        ctx.scale = scale
        return (found @ value).view(query.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        asking, key, value, found = ctx.saved_tensors
        given = gradient.reshape(asking.shape)
        to_value = found.transpose(2, 3) @ given
        share = given @ value.transpose(2, 3)
        to_scores = torch._softmax_backward_data(share, found, -1, found.dtype) * ctx.scale
        to_query = (to_scores @ key).view(gradient.shape)
        return to_query, to_scores.transpose(2, 3) @ asking, to_value, None, None


class _Spread(torch.autograd.Function):
    """[1, heads, tokens, size] to [rows, heads, width, size]; what comes back to a shared token is added up."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: Rows) -> torch.Tensor:
        ctx.save_for_backward(packed.row, packed.column)
        ctx.shared = packed.shared
        return x[0].transpose(0, 1)[packed.grid].transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        row, column = ctx.saved_tensors
        shared, by_place = ctx.shared, gradient.transpose(1, 2)
        found = by_place[row[shared:], column[shared:]]
        if shared:
            found = torch.cat([by_place[:, :shared].sum(0), found])
        return found.transpose(0, 1)[None], None


class _Collect(torch.autograd.Function):
    """[rows, width, heads, size] to [1, tokens, heads, size]: each token's from the place that owns it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: Rows) -> torch.Tensor:
        ctx.save_for_backward(packed.grid, packed.owned)
        return x[packed.row, packed.column][None]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        grid, owned = ctx.saved_tensors
        return gradient[0][grid] * owned[:, :, None, None], None
