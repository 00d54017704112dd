"""A step's examples dealt out: to each of several processes micro-batches that take it about as long as the others."""

from __future__ import annotations

from collections.abc import Sequence

from residency.batches import cut

PARTS = 4  # micro-batches of an even cut that a rank gets at most, beside what the budget of tokens asks for
EVEN = 1.1  # a cut is even enough where the busiest rank has this many times the tokens of an equal share


def deal(lengths: Sequence[int], tokens_per_batch: int, ranks: int) -> list[list[list[int]]]:
    """For each rank its micro-batches, each the places of its examples; a rank may get none.

    A cut as coarse as the budget allows may leave one micro-batch for many ranks. So it is made finer until no rank
    has much more to do than an equal share, padding counted; if none is even enough, the best of them is taken.
    """
    if ranks == 1:
        return [cut(lengths, tokens_per_batch)]
    share = sum(lengths) / ranks
    budgets = [min(tokens_per_batch, -(-sum(lengths) // (ranks * parts))) for parts in range(1, PARTS + 1)]
    found = [_spread(cut(lengths, budget), lengths, ranks) for budget in dict.fromkeys(budgets)]
    heaviest = [max(sum(_tokens(batch, lengths) for batch in own) for own in dealt) for dealt in found]
    even = next((place for place, most in enumerate(heaviest) if most <= EVEN * share), None)
    return found[heaviest.index(min(heaviest)) if even is None else even]


def _spread(batches: Sequence[list[int]], lengths: Sequence[int], ranks: int) -> list[list[list[int]]]:
    """Largest first, each to the rank that has least to do (Graham 1969: at most a third over the best there is)."""
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for batch in sorted(batches, key=lambda batch: -_tokens(batch, lengths)):
        least = loads.index(min(loads))
        dealt[least].append(batch)
        loads[least] += _tokens(batch, lengths)
    return dealt


def _tokens(batch: Sequence[int], lengths: Sequence[int]) -> int:
    """Padded tokens of a micro-batch."""
    return len(batch) * max(lengths[place] for place in batch)
