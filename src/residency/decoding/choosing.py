"""How the next token is chosen: the likeliest under penalties, or one that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

NUCLEUS = 1024  # tokens that are sorted first: mostly they hold the share that top_p asks for


@dataclass(frozen=True)
class Choosing:
    """How the next token is chosen from the logits, as transformers' processors of the names do it.

    At temperature 0 it is the likeliest. What is drawn follows `seed`; None draws anew each time.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | str | None = None

    @property
    def draws(self) -> bool:
        """Whether the token is drawn and not the likeliest."""
        return self.temperature > 0


def drawn(logits: torch.Tensor, choosing: Sequence[Choosing], numbers: Sequence[float]) -> list[int]:
    """A token for each row of `logits` [rows, vocabulary], by a random number from 0 to below 1 each.

    The number is an answer's own, so that what is drawn does not hang on who else is in the batch.
    """
    heat = torch.tensor([[one.temperature] for one in choosing], device=logits.device)
    shares = ((logits - logits.max(-1, keepdim=True).values).float() / heat).softmax(-1)
    narrow = [row for row, one in enumerate(choosing) if one.top_p < 1]
    if narrow:
        top_p = torch.tensor([[choosing[row].top_p] for row in narrow], device=logits.device)
        shares[narrow] = _nucleus(shares[narrow], top_p)
    sums = shares.double().cumsum(-1)
    aims = torch.tensor(numbers, dtype=torch.double, device=logits.device)[:, None] * sums[:, -1:]
    last = torch.searchsorted(sums, sums[:, -1:].contiguous())  # rounding may aim past the last one that has a share
    return torch.minimum(torch.searchsorted(sums, aims, right=True), last)[:, 0].tolist()


def _nucleus(shares: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The likeliest tokens that together hold `top_p` [rows, 1], at least one; all others get nothing.

    Holtzman et al. 2020, arXiv:1904.09751.
    """
    best, places = shares.topk(min(NUCLEUS, shares.shape[-1]))
    if bool((best.sum(-1, keepdim=True) < top_p).any()):
        best, places = shares.sort(descending=True)
    before = best.cumsum(-1) - best
    return torch.zeros_like(shares).scatter(-1, places, best * (before < top_p))
