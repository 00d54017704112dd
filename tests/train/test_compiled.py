from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import StopsAt
from families import CONFIGS, gradients, make
from residency import environment, pipeline
from residency.batches import collate
from residency.errors import Interrupted
from residency.loss import summed_loss, token_losses
from residency.progress import Silent
from residency.prompts import Example
from residency.recipe import Recipe
from residency.train import compiled, int8
from residency.train.compiled import CompiledLayers, repeated
from residency.train.packed import Packing
from residency.workspace import Run, sha256

EXAMPLES = [Example(tuple(range(5, 25)), 8), Example(tuple(range(40, 52)), 3), Example((9, 8, 7), 0)]
needs_compiler = pytest.mark.skipif(not environment.compiler(), reason="no C++ compiler is here")


def told(model: Any) -> tuple[CompiledLayers, list[str]]:
    said: list[str] = []
    return CompiledLayers(model, said.append), said


def packed_loss_of(layers: CompiledLayers, batch: dict[str, Any]) -> torch.Tensor:
    with Packing(layers.model, pytest.fail).on(batch) as packed, layers.on(packed):
        return summed_loss(layers.model, packed)


def loss_of(layers: CompiledLayers, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with layers.on(batch):
        return summed_loss(layers.model, batch)


@needs_compiler
@pytest.mark.parametrize("family", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS)])
def test_every_family_gives_the_loss_and_gradients_of_its_plain_layers(family: str) -> None:
    model = make(family)
    layers, said = told(model)
    batch = collate(EXAMPLES, 0)
    found = loss_of(layers, batch)
    own = gradients(model, found)
    expected = token_losses(model, batch)[0].sum()
    wanted = gradients(model, expected)
    assert not said
    assert torch.allclose(found, expected, rtol=1e-5)
    for name, gradient in wanted.items():
        assert torch.allclose(own[name], gradient, rtol=1e-3, atol=1e-5), name


@needs_compiler
@pytest.mark.parametrize("users", [False, True])
def test_pieces_are_kept_in_residencys_cache_unless_the_user_names_a_folder(
    users: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchs_own = Path(tempfile.gettempdir()) / "torchinductor_somebody"
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path / "residency"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine" if users else torchs_own))
    torch.compiler.reset()
    layers, said = told(make("llama"))
    loss_of(layers, collate(EXAMPLES, 0))
    assert not said
    assert {path.name for path in tmp_path.iterdir()} == {"mine" if users else "residency"}
    assert not torchs_own.exists()


@needs_compiler
@pytest.mark.slow
def test_the_layers_are_themselves_again_outside_and_gradients_that_were_there_stay() -> None:
    model = make("llama")
    layers, _ = told(model)
    summed_loss(model, collate(EXAMPLES, 0)).backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    random = torch.get_rng_state()
    loss_of(layers, collate(EXAMPLES, 0))
    assert layers.ready
    assert all(layer._compiled_call_impl is None for layer in repeated(model))
    assert all(torch.equal(p.grad, before[name]) for name, p in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), random)


@needs_compiler
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", pytest.param("gpt-neox", marks=pytest.mark.slow)])
def test_packed_rows_go_through_one_piece_whatever_their_number_and_width(family: str, attention: str) -> None:
    model = make(family, attention)
    layers, said = told(model)
    torch._dynamo.reset()  # pieces of other tests
    torch._dynamo.utils.counters.clear()
    for rows, width in ((3, 12), (2, 30), (5, 17), *[(1, 40)] * (attention == "sdpa")):
        examples = [Example((1, 2, 3, 4, *range(20 + row, 20 + row + width - row)), 6) for row in range(rows)]
        batch = collate(examples, 0)
        loss = packed_loss_of(layers, batch)
        own = gradients(model, loss)
        expected = token_losses(model, batch)[0].sum()
        wanted = gradients(model, expected)
        assert torch.allclose(loss, expected, rtol=1e-5)
        for name, gradient in wanted.items():
            assert torch.allclose(own[name], gradient, rtol=1e-3, atol=1e-5), name
    assert not said
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@needs_compiler
@pytest.mark.slow
def test_adapters_learn_through_compiled_layers() -> None:
    model = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).train()
    layers, said = told(model)
    batch = collate(EXAMPLES, 0)
    own = gradients(model, loss_of(layers, batch))
    wanted = gradients(model, token_losses(model, batch)[0].sum())
    assert not said
    assert own.keys() == wanted.keys()
    assert all(torch.allclose(own[name], wanted[name], rtol=1e-3, atol=1e-5) for name in wanted)


def test_what_a_compiler_cannot_do_is_said_once_and_trained_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise RuntimeError("this can't be compiled\nand more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: refuses)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/c++")
    model, batch = make("llama"), collate(EXAMPLES, 0)
    layers, said = told(model)
    found = [loss_of(layers, batch), loss_of(layers, batch)]
    assert said == ["Layers are not compiled: this can't be compiled"]
    assert all(torch.equal(loss, summed_loss(model, batch)) for loss in found)


def test_pieces_that_compute_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(call: Any, **_: Any) -> Any:
        return lambda *args, **kwargs: call(*args, **kwargs) * 1.5

    monkeypatch.setattr(torch, "compile", wrong)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/c++")
    model, batch = make("llama"), collate(EXAMPLES, 0)
    layers, said = told(model)
    assert torch.equal(loss_of(layers, batch), summed_loss(model, batch))
    assert len(said) == 1
    assert "from those of plain ones" in said[0]


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    _, said = told(make("llama"))
    assert said == ["Layers are not compiled: no C++ compiler is here (g++ or clang++)"]


def test_each_kind_of_batch_is_shown_one_of_a_fixed_shape_first(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    real = compiled.summed_loss
    monkeypatch.setattr(compiled, "summed_loss", lambda m, b: shapes.append(tuple(b["input_ids"].shape)) or real(m, b))
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/c++")
    layers, _ = told(make("llama"))
    for examples in (EXAMPLES, EXAMPLES[:2], EXAMPLES[:1], EXAMPLES[1:]):
        loss_of(layers, collate(examples, 0))
    several, alone = (compiled.ROWS, compiled.WIDTH), (1, compiled.WIDTH)
    assert shapes == [several, several, alone, alone]  # through compiled and plain layers


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("back", [False, True])  # through the layers in int8
@pytest.mark.parametrize("attention", ["eager", "sdpa"])  # packed in a grid, and gone through row by row
def test_a_training_that_was_stopped_and_begins_with_other_shapes_ends_in_the_same_bits(
    small_recipe: dict[str, Any], tmp_path: Path, attention: str, monkeypatch: pytest.MonkeyPatch, *, back: bool
) -> None:
    monkeypatch.setattr(int8, "LEAST", 8)
    settings = {"compile": True, "tokens_per_batch": 128, "evaluate_every": 2, "max_steps": 8, "method": "full"}
    settings |= {"int8": back}
    model = {**small_recipe["model"], "attention": attention}
    recipe = Recipe.parse({**small_recipe, "model": model, "train": {**small_recipe["train"], **settings}})
    weights = []
    for name, stops in (("whole", [None]), ("stopped", [3, 5, None])):
        folder = tmp_path / name
        pipeline.prepare(recipe, folder)
        for number, stop in enumerate(stops):
            torch._dynamo.reset()  # a new process knows no pieces
            with nullcontext() if stop is None else pytest.raises(Interrupted):
                pipeline.train(recipe, folder, StopsAt(stop) if stop else Silent(), resume=number > 0)
        report = Run.open(folder).read_json("train.json", "train")
        assert (report["compiled"], report["int8"]) == (True, back)
        weights.append(sha256(folder / "model" / "model.safetensors"))
    assert weights[0] == weights[1]
