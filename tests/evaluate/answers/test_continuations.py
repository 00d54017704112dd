from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from residency import virtual
from residency.evaluate.answers.continuations import Pair, continuations, shares_context

PAIRS: list[Pair] = [
    ([5, 9, 17, 30, 2], [40, 41, 42]),
    ([5, 9, 17, 30, 2], [40]),
    ([5, 9, 17, 30, 2], [77, 6]),
    ([8], [12, 13]),
    ([5, 9, 17, 30, 2], [40, 41, 43, 44, 45, 46]),
    ([8], [100]),
    ([60, 61, 62, 63, 64, 65, 66, 67, 68], [7]),
]


@pytest.fixture(params=["llama_folder", "neox_folder"])
def model(request: pytest.FixtureRequest) -> Any:
    folder: Path = request.getfixturevalue(request.param)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def plain(model: Any, context: list[int], ending: list[int]) -> tuple[float, bool]:
    """One pair alone, by the textbook."""
    with torch.no_grad():
        logits = model(torch.tensor([context + ending])).logits[0, len(context) - 1 : -1]
    found = logits.log_softmax(-1)[range(len(ending)), ending].sum()
    return float(found), logits.argmax(-1).tolist() == ending


def together(model: Any, shared: bool, budget: int) -> dict[int, tuple[float, bool]]:
    found: dict[int, tuple[float, bool]] = {}
    continuations(
        model, PAIRS, lambda places, own: found.update(zip(places, own, strict=True)), shared=shared,
        tokens_per_batch=budget,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("budget", [1, 24, 1000])
def test_a_context_gone_through_once_gives_each_ending_what_it_has_alone(model: Any, shared: bool, budget: int) -> None:
    found = together(model, shared, budget)
    assert sorted(found) == list(range(len(PAIRS)))
    for place, (context, ending) in enumerate(PAIRS):
        likelihood, greedy = plain(model, context, ending)
        assert found[place][0] == pytest.approx(likelihood, abs=1e-4)
        assert found[place][1] == greedy


def test_what_a_model_would_write_itself_is_told_as_greedy(model: Any) -> None:
    context = [5, 9, 17]
    with torch.no_grad():
        best = int(model(torch.tensor([context])).logits[0, -1].argmax())
    found: dict[int, Any] = {}
    continuations(
        model, [(context, [best]), (context, [best + 1])],
        lambda places, own: found.update(zip(places, own, strict=True)), shared=True,
    )  # fmt: skip
    assert [found[place][1] for place in (0, 1)] == [True, False]


def test_sharing_is_relied_on_where_the_model_honours_the_mask(model: Any) -> None:
    assert shares_context(model, PAIRS)


def test_a_model_that_ignores_the_mask_is_found_out(model: Any) -> None:
    forward = model.forward
    model.forward = lambda attention_mask=None, **rest: forward(
        attention_mask=attention_mask if attention_mask is not None and attention_mask.ndim == 2 else None, **rest
    )
    assert not shares_context(model, PAIRS)


def test_learnt_embeddings_before_the_prompt_go_through_without_sharing(model: Any) -> None:
    virtual.put_before(model, torch.randn(3, 32))
    assert not shares_context(model, PAIRS)
    found = together(model, False, 1000)
    for place, (context, ending) in enumerate(PAIRS):
        assert found[place][0] == pytest.approx(plain(model, context, ending)[0], abs=1e-4)
