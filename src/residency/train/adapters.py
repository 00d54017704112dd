"""What of a model learns: low-rank adapters, factors, embeddings before the prompt, the last layers, or everything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from residency.errors import UserError, listed, nearest
from residency.models import quiet_libraries
from residency.recipe import TrainSection
from residency.sections import FreezeSection, Ia3Section, LoraSection, PromptTuningSection

WHOLE = ("full", "freeze")  # methods that leave other weights in the base's place
ON_A_BASE = ("lora", "qlora", "ia3", "prompt-tuning")  # methods that leave the base's weights as they are
CHANGES_THE_BASE = ("pissa", "olora")  # variants that take their start out of the base's weights
VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "rslora": {"use_rslora": True},  # Kalajdzievski 2023, arXiv:2312.03732
    "dora": {"use_dora": True},  # Liu et al. 2024, arXiv:2402.09353
    "pissa": {"init_lora_weights": "pissa"},  # Meng et al. 2024, arXiv:2404.02948
    "olora": {"init_lora_weights": "olora"},  # Büyükakyüz 2024, arXiv:2406.01775
}


def attach(model: Any, section: TrainSection) -> Any:
    """The model with what the section's method learns, and everything else frozen.

    Raises:
        UserError: a setting of the method does not fit the model.
    """
    if section.method in ("lora", "qlora"):
        return attach_lora(model, section.lora)
    if section.method == "ia3":
        return attach_ia3(model, section.ia3)
    if section.method == "prompt-tuning":
        return attach_prompt(model, section.prompt_tuning)
    return freeze(model, section.freeze) if section.method == "freeze" else model


def in_outline(section: TrainSection) -> TrainSection:
    """The same for a model without weights: what learns has the same shapes, but no start is cut out of anything."""
    lora = section.lora.model_copy(update={"variant": "standard"})
    return section.model_copy(update={"lora": lora}) if section.lora.variant in CHANGES_THE_BASE else section


def fill(model: Any, folder: Path, section: TrainSection) -> None:
    """Put the weights of a saved adapter in the place of a model's fresh ones.

    Raises:
        UserError: the adapter is damaged, or of another method, rank, scale, target or base model.
    """
    if section.method == "lora" and section.lora.variant in CHANGES_THE_BASE:
        found = f"train.continue_from {folder}: its adapter fits the base model, which {section.lora.variant} changes"
        raise UserError(found, "train.lora.variant standard", "set it; the adapter has learnt where it starts already")
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        saved, own = load_file(folder / "adapter_model.safetensors"), get_peft_model_state_dict(model)
        is_ = {"rank": config["r"], "alpha": config["lora_alpha"]} if section.method in ("lora", "qlora") else {}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"adapter {folder}: can't be loaded ({error})", "an adapter as training leaves it") from None
    for name, value in is_.items():
        wanted = getattr(section.lora, name)
        if value != wanted:
            found = f"adapter {folder}: its {name} is {value:g}, and train.lora.{name} is {wanted:g}"
            raise UserError(found, "the same", f"set train.lora.{name}={value:g}")
    for name in sorted(saved.keys() | own.keys()):
        there, here = (list(weights[name].shape) if name in weights else "absent" for weights in (saved, own))
        if there != here:
            raise UserError(
                f"adapter {folder}: {name} is {there} there and {here} here",
                "the same base model, method and targets",
            )
    set_peft_model_state_dict(model, saved)


def attach_lora(model: Any, section: LoraSection) -> Any:
    """The model with fresh low-rank adapters; the base weights are frozen.

    Raises:
        UserError: no module of the model bears one of the target names, or a variant can't start from its weights.
    """
    from peft import LoraConfig, get_peft_model

    targets = section.targets[0] if section.targets == ("all-linear",) else list(section.targets)
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # peft divides it by the rank; any number serves
        lora_dropout=section.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        **VARIANTS[section.variant],
    )
    if targets != "all-linear":
        _refuse_absent(model, section.targets, "train.lora.targets")
    if section.variant in CHANGES_THE_BASE:
        _refuse_rank(model, section)
    try:
        with quiet_libraries():
            return get_peft_model(model, config)
    except ValueError:
        raise _wrong_targets(model, section.targets, "train.lora.targets") from None


def attach_ia3(model: Any, section: Ia3Section) -> Any:
    """The model with learnt factors on some of its activations (IA³); the base weights are frozen.

    Raises:
        UserError: peft knows no targets for this architecture and the recipe names none, or they are not in the model.
    """
    from peft import IA3Config, get_peft_model

    _refuse_absent(model, section.targets, "train.ia3.targets")
    chosen: dict[str, Any] = {"target_modules": list(section.targets), "feedforward_modules": list(section.feedforward)}
    try:
        with quiet_libraries():
            config = IA3Config(task_type="CAUSAL_LM", **(chosen if section.targets else {}))
            return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"train.ia3: {error}", f"targets among {listed(_linear(model))}, and feedforward among the targets"
        ) from None


def attach_prompt(model: Any, section: PromptTuningSection) -> Any:
    """The model with learnt embeddings before each prompt, at first those of random tokens; the rest is frozen."""
    from peft import PromptTuningConfig, PromptTuningInit, get_peft_model

    config = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=section.virtual_tokens,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
    )
    with quiet_libraries():
        return get_peft_model(model, config)


def freeze(model: Any, section: FreezeSection) -> Any:
    """The model with all frozen but its last layers, the norm after them, and where asked for the output head.

    Raises:
        UserError: the model has fewer layers.
    """
    layers = _layers(model)
    if section.train_last > len(layers):
        raise UserError(
            f"train.freeze.train_last: {section.train_last}",
            f"at most {len(layers)}, which is every layer of this model",
        )
    model.requires_grad_(False)
    learning = list(layers[len(layers) - section.train_last :]) + _final_norms(model, layers)
    for part in [*learning, *([model.get_output_embeddings()] if section.head else [])]:
        part.requires_grad_(True)
    return model


def _layers(model: Any) -> torch.nn.ModuleList:
    """The decoder layers: the one list of the decoder that is as long as its configuration says."""
    lists = [part for part in model.base_model.children() if isinstance(part, torch.nn.ModuleList)]
    found = next((part for part in lists if len(part) == model.config.num_hidden_layers), None)
    if found is None:
        raise UserError(
            f"train.method freeze: the layers of {type(model).__name__} were not found",
            "a decoder-only model",
            "use lora",
        )
    return found


def _final_norms(model: Any, layers: torch.nn.ModuleList) -> list[torch.nn.Module]:
    """What stands in the decoder after its layers and has vectors alone."""
    parts = list(model.base_model.children())
    after = parts[next(place for place, part in enumerate(parts) if part is layers) + 1 :]
    return [part for part in after if all(parameter.ndim == 1 for parameter in part.parameters())]


def _refuse_absent(model: Any, targets: Sequence[str], field: str) -> None:
    names = [f".{name}" for name, _ in model.named_modules()]
    absent = [target for target in targets if not any(name.endswith(f".{target}") for name in names)]
    if absent:  # peft passes over a wrong name beside a right one
        raise _wrong_targets(model, absent, field)


def _refuse_rank(model: Any, section: LoraSection) -> None:
    """A start that is cut out of the weights can't have more rows or columns than they have."""
    head = model.get_output_embeddings()
    least = min(
        min(part.in_features, part.out_features)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and part is not head and _is_target(name, section.targets)
    )
    if section.rank > least:
        raise UserError(
            f"train.lora.rank: {section.rank} with the variant {section.variant}",
            f"at most {least}, the shortest side of a weight that it starts from",
        )


def _is_target(name: str, targets: Sequence[str]) -> bool:
    return targets == ("all-linear",) or any(f".{name}".endswith(f".{target}") for target in targets)


def _wrong_targets(model: Any, targets: Sequence[str], field: str) -> UserError:
    linear = _linear(model)
    return UserError(
        f"{field}: {listed(targets)} is not in this model",
        ("all-linear or " if "lora" in field else "") + f"some of {listed(linear)}",
        nearest(targets[0], linear),
    )


def _linear(model: Any) -> list[str]:
    return sorted(
        {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    )
