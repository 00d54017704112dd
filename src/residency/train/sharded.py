"""A model of which each rank holds a part (FSDP2): its checkpoints, and the whole of it at the end.

Each rank writes its own part as safetensors, by torch.distributed.checkpoint; that library's own format has a pickle in
it. Any number of ranks reads the parts again, one process that holds the whole model too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from residency import ranks

WEIGHTS, STATE, NUMBERS = "sharded/weights", "sharded/optimizer", "sharded/optimizer.json"
LEARNING = StateDictOptions(ignore_frozen_params=True, strict=False)
FLAT = StateDictOptions(ignore_frozen_params=True, flatten_optimizer_state_dict=True, strict=False)


def save(model: Any, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """This rank's part of the weights that learn and of the optimizer's state; the first adds the plain numbers."""
    _write(_once(model, get_model_state_dict(model, options=LEARNING)), checkpoint / WEIGHTS)
    tensors, numbers = _parted(get_optimizer_state_dict(model, optimizer, options=FLAT))
    _write(tensors, checkpoint / STATE)
    if ranks.first():
        (checkpoint / NUMBERS).write_text(json.dumps(numbers), "utf-8")


def holds(checkpoint: Path) -> bool:
    """Whether a checkpoint was written in parts."""
    return (checkpoint / NUMBERS).is_file()


def load_weights(model: Any, checkpoint: Path) -> None:
    """Put a checkpoint's weights into a model, whole or in parts."""
    found = _once(model, get_model_state_dict(model, options=LEARNING))
    _read(found, checkpoint / WEIGHTS)
    set_model_state_dict(model, found, options=LEARNING)


def load_optimizer(model: Any, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Put a checkpoint's state into an optimizer, whole or in parts."""
    tensors, _ = _parted(get_optimizer_state_dict(model, optimizer, options=FLAT))
    _read(tensors, checkpoint / STATE)
    numbers = json.loads((checkpoint / NUMBERS).read_text("utf-8"))
    state = {name: torch.tensor(float(value)) if name.endswith(".step") else value for name, value in numbers.items()}
    set_optimizer_state_dict(model, optimizer, tensors | state, options=FLAT)


def whole(model: Any) -> dict[str, torch.Tensor]:
    """The weights that learn, gathered on the first rank's CPU; nothing on the others. All ranks have to ask.

    The model is trained no further: what recomputes its activations is taken out, under which peft finds no adapters.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    found = _once(model, get_model_state_dict(model, options=options))
    for name, module in list(model.named_modules()):
        if isinstance(module, CheckpointWrapper):
            model.set_submodule(name, module.get_submodule("_checkpoint_wrapped_module"))
    return found


def _once(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Of weights with two names, as where the output head is tied to the embeddings, the first one alone."""
    names = {name.replace("_checkpoint_wrapped_module.", "") for name, _ in model.named_parameters()}
    return {name: value for name, value in state.items() if name in names}


def _parted(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An optimizer's flat state as tensors and as plain numbers, of which JSON has no tuples."""
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor) and value.dim()}
    numbers = {
        name: value.item() if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
        if name not in tensors
    }
    return tensors, numbers


def _write(state: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_parts(state, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def _read(state: dict[str, Any], folder: Path) -> None:
    load(state, storage_reader=HuggingFaceStorageReader(str(folder)))
