from __future__ import annotations

from pathlib import Path

import pytest

from residency import models
from residency.errors import UserError
from residency.recipe import ModelSection
from residency.sections import LoraSection
from residency.train.adapters import attach_lora


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
