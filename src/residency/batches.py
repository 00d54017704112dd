"""Examples on their way through a model: sorted by length, cut by a token budget, padded.

Training and evaluation both stand on this, which is why it lies below them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from residency.prompts import Example

IGNORED = -100


def cut(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Places of the examples in each micro-batch, longest first; rows times longest row stays within the budget.

    An example longer than the budget goes through alone. The micro-batches are as few as the budget allows, and none
    larger than that asks for: a large one beside a small one would take more memory and no less time.
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    fewest = _filled(order, lengths, tokens_per_batch)
    small, large = 0, tokens_per_batch  # the first takes more micro-batches, the second doesn't
    while large - small > 1:
        budget = (small + large) // 2
        found = _filled(order, lengths, budget)
        if len(found) > len(fewest):
            small = budget
        else:
            fewest, large = found, budget
    return fewest


def _filled(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Micro-batches filled one after the other."""
    batches: list[list[int]] = []
    for place in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded tensors [rows, tokens]: input_ids, attention_mask, and labels with -100 where no loss is taken.

    Padding is marked by the mask and the labels, so that the padding id may be any id, the end token's included.
    """
    width = max(len(example) for example in examples)
    ids = torch.full((len(examples), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.input_ids, dtype=torch.long)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        labels[row, example.learn_from : len(tokens)] = tokens[example.learn_from :]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
