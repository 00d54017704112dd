"""Optimizers: which of transformers' names stands for which, and Muon, which it has not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch

NAMES = {
    "adamw": "adamw_torch_fused",
    "adafactor": "adafactor",
    "adamw-8bit": "adamw_8bit",
    "muon": "adamw_torch_fused",
}


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the hidden matrices, AdamW for everything else, as one optimizer with one state.

    Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon) with steps scaled to AdamW's size (Liu et al. 2025,
    arXiv:2502.16982), so that both take the same learning rate. `hidden` and `others` are groups of parameters.
    """

    def __init__(self, hidden: list[dict[str, Any]], others: list[dict[str, Any]], lr: float) -> None:
        self.muon = torch.optim.Muon(hidden, lr=lr, adjust_lr_fn="match_rms_adamw") if hidden else None
        self.adamw = torch.optim.AdamW(others, lr=lr) if others else None
        groups = [
            {**group, "hidden": part is self.muon}
            for part in (self.muon, self.adamw)
            if part
            for group in part.param_groups
        ]
        super().__init__(groups, {"lr": lr})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both; they work on this optimizer's own groups and state, so that a loaded state is theirs."""
        loss = closure() if closure else None
        for part in (self.muon, self.adamw):
            if part is not None:
                part.param_groups = [group for group in self.param_groups if group["hidden"] is (part is self.muon)]
                part.state = self.state
                part.step()  # type: ignore[no-untyped-call]
        return loss


def muon(model: Any, decayed: Collection[str], lr: float, weight_decay: float) -> MuonAdamW:
    """Muon for each learning matrix that is neither embedding nor output head, AdamW for the rest.

    `decayed` names the parameters that weight decay is for.
    """
    tables = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    head = model.get_output_embeddings()
    tables |= {id(head.weight)} if head is not None else set()
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hidden = parameter.ndim == 2 and min(parameter.shape) > 1 and id(parameter) not in tables
            groups.setdefault((hidden, name in decayed), []).append(parameter)
    hidden_groups, others = (
        [
            {"params": own, "weight_decay": weight_decay if decays else 0.0}
            for (hidden, decays), own in groups.items()
            if hidden is wanted
        ]
        for wanted in (True, False)
    )
    return MuonAdamW(hidden_groups, others, lr)
