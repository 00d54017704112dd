from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING

from residency import models
from residency.errors import UserError
from residency.recipe import ModelSection, Recipe, TrainSection
from residency.sections import FreezeSection, Ia3Section, LoraSection, PromptTuningSection
from residency.train.adapters import attach, attach_ia3, attach_lora, attach_prompt, freeze


def test_a_wrong_adapter_target_names_the_linear_modules(llama_folder: Path) -> None:
    model = models.load_base(ModelSection(base=str(llama_folder)))
    with pytest.raises(UserError, match="query is not in this model; expected all-linear or some of down_proj"):
        attach_lora(model, LoraSection(targets=("query",)))


def test_one_wrong_adapter_target_among_right_ones_is_not_passed_over(llama_folder: Path) -> None:
    model = models.load_base(ModelSection(base=str(llama_folder)))
    with pytest.raises(UserError, match=r"train\.lora\.targets: vproj is not in this model"):
        attach_lora(model, LoraSection(targets=("q_proj", "vproj")))


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (("all-linear",), {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (("q_proj", "v_proj"), {"q_proj", "v_proj"}),
        (("self_attn.o_proj",), {"o_proj"}),
    ],
)
def test_only_the_targets_of_the_adapter_learn(llama_folder: Path, targets: tuple[str, ...], adapted: set[str]) -> None:
    model = attach_lora(models.load_base(ModelSection(base=str(llama_folder))), LoraSection(targets=targets))
    learning = [name.split(".") for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name[-4] for name in learning} == adapted
    assert {name[-3] for name in learning} == {"lora_A", "lora_B"}


def learning(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def base(folder: Path) -> Any:
    return models.load_base(ModelSection(base=str(folder)))


@pytest.mark.parametrize(
    ("variant", "mark"), [("rslora", "use_rslora"), ("dora", "use_dora"), ("pissa", "pissa"), ("olora", "olora")]
)
def test_a_variant_starts_as_the_base_and_is_what_it_says(variant: Any, mark: str, llama_folder: Path) -> None:
    model = attach_lora(base(llama_folder), LoraSection(variant=variant, rank=4))
    config = model.peft_config["default"]
    assert getattr(config, mark, False) is True or config.init_lora_weights == mark
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, base(llama_folder)(ids).logits, atol=1e-4)


@pytest.mark.parametrize("variant", ["pissa", "olora"])
def test_a_rank_over_the_shortest_side_of_a_weight_is_told(variant: Any, llama_folder: Path) -> None:
    with pytest.raises(UserError, match=r"train\.lora\.rank: 17 with the variant .* expected at most 16"):
        attach_lora(base(llama_folder), LoraSection(variant=variant, rank=17))
    targets = ("q_proj",)
    assert attach_lora(base(llama_folder), LoraSection(variant=variant, rank=32, targets=targets))


def test_only_the_last_layers_and_the_final_norm_learn(llama_folder: Path, neox_folder: Path) -> None:
    llama = freeze(base(llama_folder), FreezeSection(train_last=1))
    assert {name for name in learning(llama) if ".layers.1." not in name} == {"model.norm.weight"}
    assert sum(".layers.1." in name for name in learning(llama)) == 9
    neox = freeze(base(neox_folder), FreezeSection(train_last=2))
    frozen = {name for name, _ in neox.named_parameters()} - learning(neox)
    assert frozen == {"gpt_neox.embed_in.weight", "lm_head.weight"}


def test_the_output_head_learns_where_asked_and_tied_embeddings_with_it(llama_folder: Path, neox_folder: Path) -> None:
    section = FreezeSection(train_last=0, head=True)
    assert learning(freeze(base(neox_folder), section)) == {
        "lm_head.weight", "gpt_neox.final_layer_norm.weight", "gpt_neox.final_layer_norm.bias",
    }  # fmt: skip
    assert learning(freeze(base(llama_folder), section)) == {"model.embed_tokens.weight", "model.norm.weight"}


def test_more_layers_than_the_model_has_are_told(llama_folder: Path) -> None:
    with pytest.raises(UserError, match=r"train\.freeze\.train_last: 3; expected at most 2"):
        freeze(base(llama_folder), FreezeSection(train_last=3))


def test_factors_stand_where_peft_puts_them_or_where_the_recipe_says(llama_folder: Path) -> None:
    known = learning(attach_ia3(base(llama_folder), Ia3Section()))
    assert {name.split(".")[-3] for name in known} == {"k_proj", "v_proj", "down_proj"}
    chosen = learning(attach_ia3(base(llama_folder), Ia3Section(targets=("q_proj",))))
    assert {name.split(".")[-3] for name in chosen} == {"q_proj"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (Ia3Section(targets=("qproj",)), r"train\.ia3\.targets: qproj is not in this model.*did you mean .q_proj"),
        (Ia3Section(targets=("q_proj",), feedforward=("up_proj",)), "should be a subset"),
    ],
)
def test_factors_that_fit_nowhere_are_told(section: Ia3Section, message: str, llama_folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        attach_ia3(base(llama_folder), section)


def test_an_architecture_that_peft_knows_no_factors_for_asks_for_targets(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING, "llama")
    model = base(llama_folder)
    with pytest.raises(UserError, match=r"train\.ia3: .*target_modules.*expected targets among down_proj"):
        attach_ia3(model, Ia3Section())


def test_embeddings_before_the_prompt_start_as_tokens_of_the_vocabulary(llama_folder: Path) -> None:
    model = attach_prompt(base(llama_folder), PromptTuningSection(virtual_tokens=6))
    assert learning(model) == {"prompt_encoder.default.embedding.weight"}
    rows = model.prompt_encoder["default"].embedding.weight
    vocabulary = model.get_input_embeddings().weight
    assert rows.shape == (6, 32)
    assert all((vocabulary == row).all(1).any() for row in rows)


@pytest.mark.parametrize("method", ["lora", "full", "qlora", "freeze", "ia3", "prompt-tuning"])
def test_every_method_leaves_something_to_learn(method: Any, llama_folder: Path) -> None:
    model = attach(base(llama_folder), TrainSection(method=method))
    whole = {name for name, _ in model.named_parameters()}
    assert learning(model) == whole if method == "full" else set() < learning(model) < whole


def test_a_variant_that_changes_packed_weights_and_a_freeze_that_leaves_nothing_are_refused() -> None:
    for settings, message in (
        ({"method": "qlora", "lora": {"variant": "pissa"}}, "variant pissa changes weights that qlora packs"),
        ({"freeze": {"train_last": 0}}, "nothing would learn"),
    ):
        with pytest.raises(UserError, match=message):
            Recipe.parse({"name": "x", "data": {"source": "clinic"}, "train": settings})
