"""Whether a model fits the plain path: it is tried once on a few tokens."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch

from residency.decoding.batch import Asked, Batch
from residency.decoding.body import Body, Unfit

PROBE = 48  # tokens on which a model is tried

_tried: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # why a model is unfit; empty where it is not


def body(model: Any, ids: list[int]) -> Body:
    """The model for the plain path, tried once on a few tokens: prefill and step must give the logits of a plain pass.

    Raises:
        Unfit: it is another kind of model, or the logits differ.
    """
    if model not in _tried:
        _tried[model] = _reason(model, ids[:PROBE])
    if _tried[model]:
        raise Unfit(_tried[model])
    return Body.of(model)


def _reason(model: Any, ids: list[int]) -> str:
    try:
        _try(Body.of(model), ids)
    except Unfit as reason:
        return str(reason)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return ""


def _try(found: Body, ids: list[int]) -> None:
    """Two prompts of different lengths, side by side, one step on; the step's logits against those of a plain pass."""
    prompts = [ids + ids[:1], ids[: len(ids) // 2 + 1]]
    batch = Batch(found, rows=2, columns=len(prompts[0]) + 2, stops=())
    with found.ready():
        batch.share(prompts[1][:-1])
        batch.enter([Asked(own, 2) for own in prompts])
        step = batch.logits().float()
    for row, running in enumerate(batch.running):
        with torch.inference_mode():
            given = torch.tensor([running.ids], device=found.model.device)
            plain = found.model(input_ids=given, use_cache=False).logits[0, -1].float()
        half = torch.is_autocast_enabled(plain.device.type) or found.model.dtype in (torch.bfloat16, torch.float16)
        off = apart(step[row], plain)
        if not off <= (0.1 if half else 1e-3):
            raise Unfit(f"its logits are {off:.1g} standard deviations off those of a plain pass")


def apart(logits: torch.Tensor, others: torch.Tensor) -> float:
    """How far two rows of logits [vocabulary] are apart, in standard deviations of the second.

    What all logits are shifted by is left out: no probability hangs on it, and in bf16 it is most of the difference.
    """
    between = logits - others
    return float((between - between.mean()).square().mean().sqrt() / others.std().clamp(min=1e-6))
