"""How likely a model finds what may follow a context, with a context that several endings share gone through once.

A multiple-choice question is one context with four endings. Its tokens go through as one row: the context, then the
endings one after another, each of which sees the context and itself alone and has the positions that it would have
straight after the context. That saves most of the work; whether a model honours such a mask is measured before it is
relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from residency.batches import cut
from residency.loss import head_on

Pair = tuple[list[int], list[int]]  # a context and what follows it, in tokens; neither is empty
Likelihood = tuple[float, bool]  # in nats, and whether greedy decoding would have written it
Keep = Callable[[list[int], list[Likelihood]], None]

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # nats a token, by which both ways may differ
COARSE = 0.1  # the same for formats of 16 bits
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)  # of a model that takes no such mask


@dataclass(frozen=True)
class Group:
    """A context, the endings that follow it, and the places of these among what was asked."""

    context: tuple[int, ...]
    endings: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]

    def __len__(self) -> int:
        """Tokens that go through the model: an ending's last token predicts nothing."""
        return len(self.context) + sum(len(ending) - 1 for ending in self.endings)


def continuations(
    model: Any,
    pairs: Sequence[Pair],
    keep: Keep,
    *,
    shared: bool,
    tokens_per_batch: int = 2048,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Hand the likelihood of each pair to `keep(places, likelihoods)`, a micro-batch at a time, longest first.

    `shared` goes through a context once for all its endings; ask `shares_context` whether the model can do that.
    `tell(done, total)` is called with tokens.
    """
    groups = grouped(pairs) if shared else alone(pairs)
    total, done = sum(map(len, groups)), 0
    for places in cut([len(group) for group in groups], tokens_per_batch):
        chosen = [groups[place] for place in places]
        found = _likelihoods(model, chosen, shared)
        keep([place for group in chosen for place in group.places], found)
        done += sum(map(len, chosen))
        tell(done, total)


def shares_context(model: Any, pairs: Sequence[Pair]) -> bool:
    """Whether a model gives the same likelihoods with shared contexts as without: tried on the shortest that tells.

    A model that ignores the mask would let an ending see the one before it, which takes two endings of several tokens
    to be seen. Learnt embeddings before a prompt take no such mask.
    """
    several = [group for group in grouped(pairs) if len(set(group.endings)) > 1]
    if not several or hasattr(model, "virtual_tokens"):
        return False
    group = min(several, key=lambda own: (sum(len(ending) > 1 for ending in own.endings) < 2, len(own)))
    apart = [Group(group.context, (ending,), (0,)) for ending in group.endings]
    try:
        together = _likelihoods(model, [group], shared=True)
    except REFUSALS:
        return False
    bound = TOLERANCE.get(model.dtype, COARSE)
    return all(
        abs(one - other) <= bound * len(ending)
        for (one, _), (other, _), ending in zip(together, _likelihoods(model, apart, False), group.endings, strict=True)
    )


def grouped(pairs: Sequence[Pair]) -> list[Group]:
    """The pairs by their context, in the order in which the contexts first come."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, (context, _) in enumerate(pairs):
        places.setdefault(tuple(context), []).append(place)
    return [
        Group(context, tuple(tuple(pairs[place][1]) for place in own), tuple(own)) for context, own in places.items()
    ]


def alone(pairs: Sequence[Pair]) -> list[Group]:
    """Each pair by itself."""
    return [Group(tuple(context), (tuple(ending),), (place,)) for place, (context, ending) in enumerate(pairs)]


def _likelihoods(model: Any, groups: Sequence[Group], shared: bool) -> list[Likelihood]:
    """Of each ending of each group, in their order."""
    width = max(map(len, groups))
    ids, positions, segments = (torch.zeros(len(groups), width, dtype=torch.long) for _ in range(3))
    segments -= 1  # padding; 0 is the context and 1, 2, ... the endings
    for row, group in enumerate(groups):
        tokens, places, parts = _laid_out(group)
        ids[row, : len(tokens)] = torch.tensor(tokens)
        positions[row, : len(tokens)] = torch.tensor(places)
        segments[row, : len(tokens)] = torch.tensor(parts)
    asked = segments > 0
    for row, group in enumerate(groups):
        asked[row, len(group.context) - 1] = True
    device = model.device
    given = {"attention_mask": (segments >= 0).long().to(device)}
    if shared:
        given = {"attention_mask": _mask(segments, model.dtype).to(device), "position_ids": positions.to(device)}
    with torch.inference_mode(), head_on(model, asked.to(device)):
        logits = model(input_ids=ids.to(device), use_cache=False, **given).logits.float()
    return _read(logits, groups)


def _laid_out(group: Group) -> tuple[list[int], list[int], list[int]]:
    """Tokens of a row, their positions, and the part that each belongs to."""
    start = len(group.context)
    tokens, positions, parts = list(group.context), list(range(start)), [0] * start
    for number, ending in enumerate(group.endings, start=1):
        tokens += ending[:-1]
        positions += range(start, start + len(ending) - 1)
        parts += [number] * (len(ending) - 1)
    return tokens, positions, parts


def _mask(segments: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the attention scores [rows, 1, tokens, tokens]: 0 where a token sees another.

    It sees the context and its own ending up to itself. Padding sees itself, since a softmax over nothing is NaN.
    """
    width = segments.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool).tril()
    same = segments[:, :, None] == segments[:, None, :]
    seen = earlier & (same | (segments == 0)[:, None, :])
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    return mask[:, None]


def _read(logits: torch.Tensor, groups: Sequence[Group]) -> list[Likelihood]:
    """The endings' likelihoods out of the logits [asked positions, vocabulary] of the groups' rows."""
    rows: list[int] = []
    targets: list[int] = []
    start = 0
    for group in groups:
        after = start + 1  # the context's last position predicts the first token of every ending
        for ending in group.endings:
            rows += [start, *range(after, after + len(ending) - 1)]
            targets += ending
            after += len(ending) - 1
        start = after
    place, target = (torch.tensor(own, device=logits.device) for own in (rows, targets))
    found = logits[place, target] - logits.logsumexp(-1)[place]
    greedy = logits.argmax(-1)[place] == target
    lengths = [len(ending) for group in groups for ending in group.endings]
    parts = zip(found.double().cpu().split(lengths), greedy.cpu().split(lengths), strict=True)
    return [(float(own.sum()), bool(best.all())) for own, best in parts]
