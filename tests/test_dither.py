from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from residency import models, pipeline
from residency.dither import dither
from residency.progress import Silent
from residency.prompts import Example
from residency.recipe import Recipe
from residency.sections import LoraSection
from residency.train import merge
from residency.train.adapters import attach_lora
from residency.workspace import Run


def on_grid(rows: int = 256, columns: int = 256) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, columns).bfloat16().float()


@pytest.fixture
def published(llama_folder: Path, tmp_path: Path) -> str:
    """The small chat model with weights of bf16, as most are published."""
    folder = tmp_path / "published"
    AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(folder)
    return str(folder)


def matrices(model: Any) -> torch.Tensor:
    """All weights of two dimensions and more, one after the other."""
    return torch.cat([weight.detach().float().flatten() for weight in model.parameters() if weight.dim() > 1])


def seen(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """How much of a move of weights is in another one: 1 where all of it is."""
    return float((found @ wanted) / (wanted @ wanted))


def test_every_number_of_bf16_still_rounds_to_itself() -> None:
    every = (torch.arange(2**16) - 2**15).to(torch.int16).view(torch.bfloat16).reshape(256, 256).float()
    before = every.clone()
    found, count = dither([("every", every)])
    assert torch.equal(every.bfloat16().view(torch.int16), before.bfloat16().view(torch.int16))
    special = ~before.isfinite() | (before == 0)
    assert torch.equal(every[special].view(torch.int32), before[special].view(torch.int32))
    assert (found, count) == (int((~special).sum()), 2**16)
    assert float((every != before)[~special].float().mean()) > 0.999


def test_what_is_no_number_of_bf16_no_matrix_or_no_float32_stays_as_it_is() -> None:
    torch.manual_seed(0)
    finer = on_grid() * (1 + 2**-12)
    finer[0, :9] = 1.5  # as many may lie there by chance
    others = {"vector": torch.ones(64), "half": on_grid().bfloat16(), "slanted": on_grid(64, 32).T}
    before = {name: weight.clone() for name, weight in others.items()}
    kept = finer.clone()
    assert dither([("finer", finer), *others.items()]) == (0, finer.numel())
    assert torch.equal(finer, kept)
    assert all(torch.equal(others[name], weight) for name, weight in before.items())


def test_the_draw_is_the_same_for_the_same_name_and_another_for_another() -> None:
    one, same, other = on_grid(), on_grid(), on_grid()
    dither([("a", one), ("b", other)])
    dither([("a", same)])
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.4, -0.25])
def test_a_step_below_half_of_the_last_bit_is_there_in_the_mean_after_rounding(share: float) -> None:
    plain = on_grid(1024)
    drawn = plain.clone()
    dither([("weight", drawn)])
    last = torch.exp2(torch.floor(torch.log2(plain.abs())) - 7)
    moved = ((drawn + share * last).bfloat16().float() - plain) / last
    assert float(moved.mean()) == pytest.approx(share, abs=0.004)
    stuck = (plain + share * last).bfloat16().float() != plain
    assert float(stuck.float().mean()) < 0.01  # without it none moves, but where a power of two lies below a weight


def test_what_full_training_learns_in_small_steps_outlives_bf16(
    published: str, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    moves: dict[bool, list[torch.Tensor]] = {}
    base = matrices(AutoModelForCausalLM.from_pretrained(published, dtype=torch.float32))
    for drawn in (False, True):
        settings = {"method": "full", "learning_rate": 5e-6, "warmup": 0, "max_steps": 4, "precision": "fp32"}
        raw = {**small_recipe, "model": {**small_recipe["model"], "base": published}}
        recipe = Recipe.parse({**raw, "train": {**raw["train"], **settings, "dither": drawn}})
        said = Silent()
        lines: list[str] = []
        said.say = lines.append  # type: ignore[method-assign, assignment]
        pipeline.prepare(recipe, tmp_path / str(drawn))
        pipeline.train(recipe, tmp_path / str(drawn), said)
        folder = tmp_path / str(drawn) / "model"
        moves[drawn] = [matrices(models.load_tuned(folder, dtype)) - base for dtype in (None, torch.bfloat16)]
        assert any("are numbers of bf16" in line for line in lines) == drawn
        assert (Run.open(tmp_path / str(drawn)).read_json("train.json", "train")["dithered"] > 0.99) == drawn
    learnt = moves[False][0]
    assert seen(moves[False][1], learnt) < 0.5
    assert seen(moves[True][1], learnt) == pytest.approx(1.0, abs=0.15)


def test_what_an_adapter_adds_in_small_steps_outlives_bf16_and_only_its_own_weights_are_drawn(
    published: str, small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    raw = {**small_recipe, "model": {**small_recipe["model"], "base": published}}
    recipe = Recipe.parse(raw)
    torch.manual_seed(1)
    adapted = attach_lora(models.load_base(recipe.model), LoraSection(rank=4, targets=("q_proj", "v_proj")))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-5)
    adapted.save_pretrained(tmp_path / "adapter")
    examples = [Example(tuple(range(3, 20)), 2)]
    base = matrices(models.load_base(recipe.model))
    learnt = matrices(
        PeftModel.from_pretrained(models.load_base(recipe.model), tmp_path / "adapter").merge_and_unload()
    )
    learnt -= base
    undrawn = recipe.model_copy(update={"train": recipe.train.model_copy(update={"dither": False})})
    stuck = matrices(merge.merged(undrawn, tmp_path / "adapter", examples, 0)[0].bfloat16()) - base
    model, agreement = merge.merged(recipe, tmp_path / "adapter", examples, 0)
    assert agreement.dithered > 0.99
    moved = matrices(model) - base
    assert torch.equal(moved != 0, learnt != 0)
    assert torch.equal(matrices(models.load_adapted(recipe.model, tmp_path / "adapter")), matrices(model))
    assert seen(stuck, learnt) < 0.5
    assert seen(matrices(model.bfloat16()) - base, learnt) == pytest.approx(1.0, abs=0.3)
