from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer

from residency import ranks
from residency.train.distributed import RankedTrainer


def drawn(monkeypatch: pytest.MonkeyPatch, world: int, rank: int) -> list[float]:
    monkeypatch.setattr(ranks, "world", lambda: world)
    monkeypatch.setattr(ranks, "rank", lambda: rank)
    monkeypatch.setattr(Trainer, "train", lambda _self: torch.rand(4).tolist())
    trainer = object.__new__(RankedTrainer)
    trainer.args = SimpleNamespace(seed=3)  # type: ignore[assignment]
    torch.manual_seed(3)  # as transformers does on each rank
    found: list[float] = trainer.train()
    return found


def test_each_rank_draws_masks_of_its_own_and_one_alone_those_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    alone = torch.rand(4).tolist()
    assert drawn(monkeypatch, 1, 0) == alone
    assert drawn(monkeypatch, 2, 0) != drawn(monkeypatch, 2, 1)
    assert drawn(monkeypatch, 2, 1) == drawn(monkeypatch, 2, 1)
