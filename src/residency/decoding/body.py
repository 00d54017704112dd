"""A causal language model as the plain path needs it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from residency.decoding.slots import Slots


class Unfit(Exception):
    """This model needs more than the plain path; says what."""


@dataclass(frozen=True)
class Body:
    """A causal language model as the plain path needs it: its layers, and the window of those that have one."""

    model: Any
    layers: int
    full: bool  # some layers see everything
    window: int | None  # some see the last so many tokens

    @classmethod
    def of(cls, model: Any) -> Body:
        """The parts of a model.

        Raises:
            Unfit: it is not built as the plain path needs it.
        """
        if hasattr(model, "peft_config"):
            if any(config.is_prompt_learning for config in model.peft_config.values()):
                raise Unfit("learnt embeddings before the prompt")
            model = model.get_base_model() if hasattr(model, "get_base_model") else model
        if any(name.endswith("virtual_tokens") for name, _ in model.named_buffers()):
            raise Unfit("learnt embeddings before the prompt")
        accepted = inspect.signature(model.forward).parameters
        if not {"position_ids", "past_key_values", "attention_mask"} <= set(accepted):
            raise Unfit("no positions or no keys and values from outside")
        if not model._supports_sdpa or not model._supports_attention_backend or model.get_output_embeddings() is None:
            raise Unfit("an attention of its own")
        config = model.config.get_text_config(decoder=True)
        kinds: list[Any] = DynamicCache(config=config).layers
        chunked = "chunked_attention" in (getattr(config, "layer_types", None) or ())
        if not kinds or chunked or {type(kind) for kind in kinds} - {DynamicLayer, DynamicSlidingWindowLayer}:
            raise Unfit("layers that keep something else than keys and values")
        windows: set[Any] = {kind.sliding_window if kind.is_sliding else None for kind in kinds}
        if len(windows - {None}) > 1:
            raise Unfit("several windows")
        return cls(model, len(kinds), None in windows, max(windows - {None}, default=None))

    def mask(self, positions: torch.Tensor, width: int) -> Any:
        """What `positions` [rows, tokens] see: [rows, 1, tokens, width]; by kind of layer where there are two."""
        columns = torch.arange(width, device=positions.device)
        own = positions[:, None, :, None]
        before = columns <= own
        if self.window is None:
            return before
        near = before & (columns > own - self.window)
        return {"full_attention": before, "sliding_attention": near} if self.full else near

    def logits(self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, slots: Slots) -> torch.Tensor:
        """[rows, tokens, vocabulary] of new tokens `ids` [rows, tokens], or of those that `only` leaves."""
        return self.model(  # type: ignore[no-any-return]
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=slots, use_cache=True
        ).logits

    @contextmanager
    def only(self, last: torch.Tensor) -> Iterator[None]:
        """Inside this block the output head runs on one token of each row, `last` [rows]."""
        rows = torch.arange(len(last), device=last.device)
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _module, inputs: (inputs[0][rows, last][:, None],))
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside this block masks mean what `mask` makes them mean."""
        config = self.model.config
        before = config._attn_implementation
        config._attn_implementation = "sdpa"
        try:
            with torch.inference_mode():
                yield
        finally:
            config._attn_implementation = before
