from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from families import CONFIGS, gradients, make
from residency import environment, models
from residency.batches import collate
from residency.errors import UserError
from residency.loss import summed_loss
from residency.prompts import Example
from residency.recipe import Recipe
from residency.train import int8
from residency.train.compiled import CompiledLayers
from residency.train.setup import in_int8

EXAMPLES = [Example(tuple(range(5, 25)), 8), Example(tuple(range(40, 52)), 3), Example((9, 8, 7, 6), 2)]
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not environment.compiler(), reason="no C++ compiler is here")


@pytest.fixture
def small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "LEAST", 8)


def layer_of(kind: str) -> torch.nn.Module:
    torch.manual_seed(1)
    if kind == "conv1d":
        return Conv1D(192, 160)
    return torch.nn.Linear(160, 192, bias=kind == "biased")


def passed(layer: torch.nn.Module, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The outcome, and the gradients of the input, the weight and the bias, of a loss with tokens of unlike weight."""
    layer.zero_grad()
    hidden.grad = None
    found = layer(hidden)
    weights = torch.logspace(-3, 0, found[..., 0].numel()).view(found.shape[:-1])
    (found.square().mean(-1) * weights).sum().backward()
    own = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    return (found.detach(), *([] if hidden.grad is None else [hidden.grad]), *own)


def test_a_row_is_its_scale_times_its_integers_up_to_half_a_step_of_it() -> None:
    numbers = torch.randn(7, 300) * torch.logspace(-8, 8, 7)[:, None]
    numbers[3] = 0
    small, scale = int8._by_row(numbers)
    assert small.dtype == torch.int8
    assert small.abs().amax(1).tolist() == [127, 127, 127, 0, 127, 127, 127]
    assert ((small * scale - numbers).abs() <= 0.501 * scale).all()


def test_what_is_far_below_a_step_is_there_in_the_sum_of_many() -> None:
    numbers = torch.full((2000, 3), 0.004)
    numbers[0] = 1.0
    numbers[1:, 2] *= -1
    small, scale = int8._by_column(numbers)
    found, wanted = (small * scale).sum(0), numbers.sum(0)
    assert set(small[1:].unique().tolist()) == {-1, 0, 1}
    assert torch.allclose(found, wanted, rtol=0.02)


@pytest.mark.parametrize("kind", ["plain", "biased", "conv1d"])
def test_the_outcome_is_the_same_and_the_gradients_are_nearly(kind: str) -> None:
    layer, hidden = layer_of(kind), torch.randn(4, 50, 160, requires_grad=True)
    plain = passed(layer, hidden)
    with int8.backward(int8.fitting([layer])):
        found = passed(layer, hidden)
    assert torch.equal(found[0], plain[0])
    assert len(found) == len(plain) == (3 if kind == "plain" else 4)
    for own, wanted in zip(found[1:], plain[1:], strict=True):
        assert own.dtype == wanted.dtype
        assert float((own - wanted).norm() / wanted.norm()) < 0.03
    assert not torch.equal(found[1], plain[1])


def test_only_what_learns_has_a_gradient() -> None:
    layer, hidden = layer_of("plain"), torch.randn(50, 160)
    with int8.backward([layer]):
        assert len(passed(layer, hidden)) == 2
        layer.weight.requires_grad = False
        assert len(passed(layer, hidden.requires_grad_())) == 2
    assert hidden.grad is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_is_not_hidden(value: float) -> None:
    layer, hidden = layer_of("plain"), torch.randn(50, 160, requires_grad=True)
    with int8.backward([layer]):
        (layer(hidden) * torch.tensor([value] + [1.0] * 49)[:, None]).sum().backward()
    assert not torch.isfinite(layer.weight.grad).any()
    assert not torch.isfinite(hidden.grad[0]).any()
    assert torch.isfinite(hidden.grad[1:]).all()


def test_layers_are_themselves_again_and_small_ones_stay_it() -> None:
    layer, small = layer_of("plain"), torch.nn.Linear(160, 16)
    layers = int8.fitting([torch.nn.Sequential(layer, small)])
    assert layers == [layer]
    with pytest.raises(RuntimeError), int8.backward(layers):
        assert type(layer) is int8.Int8Linear
        raise RuntimeError
    assert type(layer) is type(small) is torch.nn.Linear


@needs_compiler
@pytest.mark.usefixtures("small_layers_too")
@pytest.mark.parametrize("family", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS)])
def test_every_family_has_its_loss_and_nearly_its_gradients(family: str) -> None:
    model, batch, said = make(family), collate(EXAMPLES, 0), []
    layers = CompiledLayers(model, said.append, bf16=True, int8=True)
    with layers.on(batch):
        loss = summed_loss(model, batch)
    found, expected = gradients(model, loss), summed_loss(model, batch)
    wanted = gradients(model, expected)
    assert layers.products
    assert len(said) == 1
    assert said[0].startswith("The backward pass is in int8 (train.int8): its cosine with the plain one is ")
    assert float(said[0].split()[-1]) > 0.99
    assert torch.allclose(loss, expected, rtol=1e-5)
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).norm() / gradient.norm()) < 0.1, name
    assert any(not torch.allclose(found[name], gradient, rtol=1e-4) for name, gradient in wanted.items())


@pytest.mark.usefixtures("small_layers_too")
def test_a_direction_that_is_another_is_said_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    monkeypatch.setattr(environment, "compiler", lambda: "c++")
    monkeypatch.setattr(int8, "_by_column", lambda numbers: (torch.ones_like(numbers, dtype=torch.int8), numbers[:1]))
    model, batch, said = make("llama"), collate(EXAMPLES, 0), []
    layers = CompiledLayers(model, said.append, bf16=True, int8=True)
    with layers.on(batch):
        own = gradients(model, summed_loss(model, batch))
    wanted = gradients(model, summed_loss(model, batch))
    assert layers.pieces
    assert not layers.products
    assert all(torch.equal(own[name], wanted[name]) for name in wanted)
    assert len(said) == 1
    assert said[0].startswith("The backward pass stays out of int8: there, its cosine with the plain one is ")


def test_where_int8_cannot_be_compiled_the_layers_still_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "LEAST", 8)
    monkeypatch.setattr(environment, "compiler", lambda: "c++")
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    model, batch, said = make("llama"), collate(EXAMPLES, 0), []

    def refuses(*_: Any) -> Any:
        raise RuntimeError("no such product\nand more")

    monkeypatch.setattr(torch, "_int_mm", refuses)
    layers = CompiledLayers(model, said.append, bf16=True, int8=True)
    with layers.on(batch):
        summed_loss(model, batch).backward()
    assert layers.pieces
    assert said == ["The backward pass stays out of int8: no such product"]


def section(**settings: Any) -> Any:
    return Recipe.parse({"name": "x", "data": {"source": "clinic"}, "train": settings}).train


def test_it_is_taken_where_layers_are_compiled_in_bf16_on_a_processor_that_gains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for has in (True, False):
        monkeypatch.setattr(models, "computes_int8", lambda has=has: has)
        assert in_int8(section(), CPU, "bf16", compiled=True) is has
        assert in_int8(section(int8=True), CPU, "fp32", compiled=True)
        assert not in_int8(section(), CPU, "fp32", compiled=True)
        assert not in_int8(section(), CPU, "bf16", compiled=False)
        assert not in_int8(section(), torch.device("cuda"), "bf16", compiled=True)
        assert not in_int8(section(int8=False), CPU, "bf16", compiled=True)


def test_asked_for_where_nothing_is_compiled_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.int8: true where the layers are not compiled"):
        in_int8(section(int8=True), CPU, "bf16", compiled=False)
