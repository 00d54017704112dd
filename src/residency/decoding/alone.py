"""One answer by transformers' `generate`, token by token, for models that the plain path can't take."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from residency import models
from residency.decoding.choosing import Choosing


class _Listener(StoppingCriteria):
    """Hands each new token on, and stops where it is not wanted any more."""

    def __init__(self, heard: Callable[[int], bool]) -> None:
        self.heard = heard

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **rest: Any) -> torch.Tensor:
        over = not self.heard(int(input_ids[0, -1]))
        return torch.full((1,), over, dtype=torch.bool, device=input_ids.device)


def answer(
    model: Any,
    ids: list[int],
    choosing: Choosing,
    *,
    limit: int,
    stops: Collection[int],
    pad_id: int,
    heard: Callable[[int], bool],
) -> None:
    """Continue a prompt, given as token ids, by at most `limit` tokens.

    `heard` gets each token, the one that ends the answer included, and says whether the next one is wanted.
    """
    given = torch.tensor([ids], device=model.device)
    config = GenerationConfig(
        max_new_tokens=limit, eos_token_id=sorted(stops), pad_token_id=pad_id, **_settings(choosing)
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices), models.quiet_libraries():
        if choosing.draws:
            torch.manual_seed(random.Random(choosing.seed).getrandbits(63))
        model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([_Listener(heard)]),
        )


def _settings(choosing: Choosing) -> dict[str, Any]:
    """The choosing in transformers' names."""
    found: dict[str, Any] = {
        "repetition_penalty": choosing.repetition_penalty,
        "no_repeat_ngram_size": choosing.no_repeat_ngram_size,
        "do_sample": choosing.draws,
    }
    if choosing.draws:  # all that the most likely fifty are to transformers without being asked is switched off
        found |= {"temperature": choosing.temperature, "top_p": choosing.top_p, "top_k": 0}
    return found
