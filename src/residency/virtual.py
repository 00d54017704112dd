"""Learnt embeddings before each prompt, on any decoder: what prompt tuning leaves, as a model that answers.

peft's own generation puts them before the padding of a batch, so that a short prompt stands further from them than a
long one. Here the positions of a prompt's tokens follow on theirs, however wide the padding between them is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FILE, TENSOR = "adapter_model.safetensors", "prompt_embeddings"  # peft's names


def read(folder: Path) -> torch.Tensor:
    """The learnt embeddings [virtual tokens, hidden] of an adapter that peft has saved."""
    from safetensors.torch import load_file

    return load_file(folder / FILE)[TENSOR]


def put_before(model: Any, embeddings: torch.Tensor) -> Any:
    """The model, changed to see `embeddings` [virtual tokens, hidden] before each prompt; nothing else of it differs.

    Its logits, its hidden states and what `generate` returns are those of the prompt's tokens alone.
    """
    model.register_buffer("virtual_tokens", embeddings.to(model.dtype), persistent=False)
    decoder = model.base_model

    def before(_decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = {"input_ids": args[0], **kwargs} if args else kwargs  # some models give the ids without their name
        return (), _with(model.virtual_tokens, model.get_input_embeddings(), named)

    def after(_decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if kwargs.get("inputs_embeds") is not None:
            output.last_hidden_state = output.last_hidden_state[:, len(model.virtual_tokens) :]
        return output

    decoder.register_forward_pre_hook(before, with_kwargs=True)
    decoder.register_forward_hook(after, with_kwargs=True)
    return model


def _with(virtual: torch.Tensor, embed: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A decoder's arguments with the virtual tokens in them: as inputs at the start, later in mask and positions."""
    import torch

    ids, mask, cache = kwargs["input_ids"], kwargs.get("attention_mask"), kwargs.get("past_key_values")
    seen = cache.get_seq_length() if cache is not None else 0
    if mask is None:
        mask = ids.new_ones(len(ids), max(seen - len(virtual), 0) + ids.shape[1])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :] + len(virtual)
    changed = {"attention_mask": torch.cat([mask.new_ones(len(ids), len(virtual)), mask], 1), "position_ids": positions}
    if not seen:
        own = torch.arange(len(virtual), device=ids.device).expand(len(ids), -1)
        changed["position_ids"] = torch.cat([own, positions], 1)
        changed["inputs_embeds"] = torch.cat([virtual.expand(len(ids), -1, -1), embed(ids)], 1)
        changed["input_ids"] = None
    return {**kwargs, **changed}
