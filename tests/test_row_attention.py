from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from residency import row_attention
from residency.row_attention import Rows, attention, rows_of

TRAINING = SimpleNamespace(training=True)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few queries."""
    monkeypatch.setattr(row_attention, "AREA", 40)
    monkeypatch.setattr(row_attention, "LEAST", 4)


def mask_of(lengths: list[int], shared: int) -> torch.Tensor:
    """Which keys each query sees [tokens, tokens], row by row."""
    edges = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    seen = torch.zeros(edges[-1], edges[-1], dtype=torch.bool)
    for first, end in pairwise(edges):
        seen[first:end, first:end] = torch.ones(end - first, end - first).tril().bool()
        seen[first:end, : shared if first else 0] = True
    return seen


def parts(tokens: int, heads: int = 4, groups: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, count, tokens, 8, requires_grad=True) for count in (heads, groups, groups)]


@pytest.mark.parametrize("longest_kept", [1024, 12])
@pytest.mark.parametrize(("lengths", "shared"), [([21], 0), ([20, 9, 3], 0), ([20, 15, 3, 1], 5)])
@pytest.mark.usefixtures("small")
def test_rows_have_the_outcome_and_gradients_of_attention_under_a_mask(
    lengths: list[int], shared: int, longest_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_attention, "LONGEST_KEPT", longest_kept)
    given, rows = parts(sum(lengths)), rows_of(lengths, shared)
    assert len(rows.blocks) > 4 * len(lengths)
    mask = mask_of(lengths, shared)
    wanted = torch.nn.functional.scaled_dot_product_attention(*given, attn_mask=mask, enable_gqa=True, scale=0.3)
    found = attention(TRAINING, *given, None, rows, scaling=0.3)[0].transpose(1, 2)
    assert torch.allclose(found, wanted, atol=1e-6)
    into = torch.randn_like(wanted)
    for own, other in zip(
        torch.autograd.grad(found, given, into), torch.autograd.grad(wanted, given, into), strict=True
    ):
        assert torch.allclose(own, other, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_blocks_are_every_query_once_and_no_key_after_them() -> None:
    rows = rows_of([20, 15], 5)
    queries = [place for _, start, stop, _ in rows.blocks.view(-1, 4).tolist() for place in range(start, stop)]
    assert queries == list(range(35))
    assert {(first, shared) for first, *_, shared in rows.blocks.view(-1, 4).tolist()} == {(0, 0), (20, 5)}
    assert rows.area == rows.kept == sum((b - a) * (s + b - f) for f, a, b, s in rows.blocks.view(-1, 4).tolist())
    assert int(mask_of([20, 15], 5).sum()) < rows.area < 20 * 20 + 15 * 20


def test_probabilities_of_long_rows_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_attention, "LONGEST_KEPT", 10)
    assert rows_of([30, 8], 0)[1:] == (30 * 30 + 8 * 8, 8 * 8)
    assert rows_of([30], 0).kept == 2  # no size of 0 for a compiler


@pytest.mark.usefixtures("small")
def test_what_drops_out_is_the_same_forward_and_backward_and_made_up_for() -> None:
    query, key, value = parts(40)
    rows, ones = rows_of([30, 10], 0), torch.ones_like(value).requires_grad_()
    torch.manual_seed(1)
    found, _ = attention(TRAINING, query, key, ones, None, rows, dropout=0.25)
    assert not torch.allclose(found, torch.ones_like(found))
    assert float(found.detach().mean()) == pytest.approx(1, abs=0.1)
    # Outcomes are linear in the values: their gradient gives the outcome back if the same was dropped.
    again = torch.autograd.grad(found.sum(), ones)[0].sum()
    assert float(again) == pytest.approx(float(found.detach().sum()), rel=1e-4)
    torch.manual_seed(1)
    assert torch.equal(attention(TRAINING, query, key, ones, None, rows, dropout=0.25)[0], found)
    answering = SimpleNamespace(training=False)
    kept, _ = attention(answering, query, key, ones, None, rows, dropout=0.25)
    assert torch.allclose(kept, torch.ones_like(kept))


@pytest.mark.parametrize(
    "more", [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"is_causal": False}], ids=lambda more: next(iter(more))
)
def test_attention_of_another_kind_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"a kind of its own \\({next(iter(more))}\\)"):
        attention(TRAINING, *parts(4), None, rows_of([4], 0), **more)


def test_what_is_no_part_of_attention_is_passed_over() -> None:
    rows = rows_of([4], 0)
    plain, _ = attention(TRAINING, *parts(4), None, rows)
    more = {"position_ids": torch.arange(4)[None], "sliding_window": 4096, "output_router_logits": False, "cap": None}
    assert torch.equal(attention(TRAINING, *parts(4), None, rows, **more)[0], plain)


def test_the_backward_pass_is_checked_by_differences() -> None:
    given = [x.detach().double().requires_grad_() for x in parts(7)]
    rows = rows_of([5, 2], 2)
    assert isinstance(rows, Rows)
    assert torch.autograd.gradcheck(lambda *x: attention(TRAINING, *x, None, rows)[0], given)
