from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraModel
from transformers import AutoModelForCausalLM

from residency import models, pipeline
from residency.errors import UserError
from residency.prompts import Example, Prompt
from residency.recipe import Recipe
from residency.sections import LoraSection
from residency.train import merge
from residency.train.adapters import attach_lora
from residency.train.trainer import ResidencyTrainer

EXAMPLES = [Example(tuple((7 * n + place) % 380 + 3 for place in range(6 + 30 * n)), 2) for n in range(6)]


def recipe_of(raw: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe.parse({**raw, "train": {**raw["train"], "precision": "fp32", **settings}})


def adapter_of(recipe: Recipe, folder: Path, scale: float = 0.1) -> Any:
    """A saved adapter that says something, and the model it is part of."""
    torch.manual_seed(1)
    adapted = attach_lora(models.load_base(recipe.model), LoraSection(rank=4))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    adapted.save_pretrained(folder)
    return adapted.eval()


def test_a_merged_model_answers_as_the_adapter_does(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_of(small_recipe)
    adapted = adapter_of(recipe, tmp_path)
    model, found = merge.merged(recipe, tmp_path, EXAMPLES, 0)
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        expected = adapted(ids).logits
        assert torch.allclose(model(ids).logits, expected, atol=1e-4)
        assert not torch.allclose(models.load_base(recipe.model)(ids).logits, expected, atol=1e-2)
    assert (found.examples, found.tokens) == (4, sum(min(len(example), merge.TOKENS) for example in EXAMPLES[:4]))
    assert any(len(example) > merge.TOKENS for example in EXAMPLES[:4])
    assert 0 < found.largest < 1e-4


def test_the_difference_is_a_share_of_the_logits_spread_whatever_their_scale() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, 40)
    off = logits.clone()
    off[3, 4] += 0.02
    for scale in (1e-3, 1.0, 1e3):
        found = merge.agreement(scale * logits, scale * off, 1)
        assert found.largest == pytest.approx(0.02 / float(logits.std()), rel=1e-3)


@pytest.mark.parametrize("fault", [1e-2, float("nan")])
def test_a_merge_that_changes_what_the_model_says_is_an_error_that_names_the_adapter(
    fault: float, small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(small_recipe)
    adapter_of(recipe, tmp_path)
    real = LoraModel.merge_and_unload

    def damaged(self: Any, *given: Any, **options: Any) -> Any:
        model = real(self, *given, **options)
        model.get_output_embeddings().weight.data[7] += fault
        return model

    monkeypatch.setattr(LoraModel, "merge_and_unload", damaged)
    with pytest.raises(UserError, match=r"logits differ .* expected at most 0\.001; the adapter lies in"):
        merge.merged(recipe, tmp_path, EXAMPLES, 0)


@pytest.mark.parametrize("variant", ["standard", "dora", "pissa", "olora"])
def test_what_is_saved_is_the_model_that_was_trained_and_its_adapter_fits_the_plain_base(
    variant: str, small_recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(small_recipe, max_steps=4, lora={"variant": variant, "rank": 4})
    trained: list[torch.Tensor] = []
    ids = torch.arange(3, 23).reshape(2, 10)

    class Kept(ResidencyTrainer):
        def train(self, *given: Any, **options: Any) -> Any:
            done = super().train(*given, **options)
            with torch.no_grad():
                trained.append(self.model.eval()(ids).logits.clone())
            return done

    monkeypatch.setattr("residency.train.objective.ResidencyTrainer", Kept)
    pipeline.prepare(recipe, tmp_path)
    pipeline.train(recipe, tmp_path)
    base = models.load_base(recipe.model)
    with torch.no_grad():
        assert torch.allclose(models.load_tuned(tmp_path / "model")(ids).logits, trained[0], atol=1e-4)
        adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
        assert torch.allclose(adapted(ids).logits, trained[0], atol=1e-4)
        assert not torch.allclose(models.load_base(recipe.model)(ids).logits, trained[0], atol=1e-2)


def test_after_prompt_tuning_the_folder_loads_with_its_base_and_never_as_the_base_alone(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = recipe_of(small_recipe, method="prompt-tuning", learning_rate=0.3, max_steps=10)
    pipeline.run(recipe, tmp_path)
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "base.json", "generation_config.json"} <= files
    assert "model.safetensors" not in files
    tuned = models.load_tuned(tmp_path / "model")
    assert tuned.virtual_tokens.shape == (20, 32)
    prompt = Prompt.build(recipe.prompt, models.load_tokenizer(recipe.model))
    assert tuned.generation_config.eos_token_id == prompt.stop_ids
    with pytest.raises(ValueError, match="prompt learning"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert "Saved model against base and adapter" in (tmp_path / "report.html").read_text()
