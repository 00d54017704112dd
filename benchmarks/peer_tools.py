"""What all systems of `train_speed.py` share: the clock, the model, and the loss that each is judged by."""

from __future__ import annotations

import time
from typing import Any

IGNORED = -100
Given = dict[str, Any]
Losses = dict[str, float | None]


class Clock:
    """When each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.first_begun = 0.0

    def begin(self) -> None:
        self.first_begun = self.first_begun or time.perf_counter()

    def end(self) -> None:
        self.ends.append(time.perf_counter())

    def callback(self) -> Any:
        """The clock as transformers' Trainer calls it."""
        from transformers import TrainerCallback

        clock = self

        class Watch(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                clock.begin()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.end()

        return Watch()

    def watch(self, optimizer: Any) -> None:
        """End a step whenever an optimizer of this class, in a loop that calls nobody, has taken one."""
        clock, step = self, optimizer.step

        def timed(*args: Any, **kwargs: Any) -> Any:
            found = step(*args, **kwargs)
            clock.end()
            return found

        optimizer.step = timed


def loaded(given: Given) -> tuple[Any, Any]:
    """The model, with adapters where they are what learns, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(given["seed"])
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if given["method"] == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=16, lora_alpha=32, target_modules=given["targets"], task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    return model, tokenizer


def validated(model: Any, given: Given) -> Losses:
    """Mean cross-entropy (nats) of the validation rows' answer tokens, one row at a time, computed in float32.

    `loss` is that of the weights as training left them, `loss_in_bf16` that of the same weights rounded to bf16, as
    most models are saved and loaded; None where adapters would have to be merged first.
    """
    import torch

    if "_original_forward" in vars(model):  # accelerate's, which computes in bf16
        model.forward = model._original_forward
    model = getattr(model, "_forward_module", model)  # Lightning's, which does so too
    if isinstance(model, torch.nn.Module):
        model = model.eval()
    loss = _loss(model, given)
    if given["method"] != "full":
        return {"loss": loss, "loss_in_bf16": None}
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
    return {"loss": loss, "loss_in_bf16": _loss(model, given)}


def _loss(model: Any, given: Given) -> float:
    import torch

    total, tokens = 0.0, 0
    with torch.no_grad():
        for row in given["validation"]:
            output = model(torch.tensor([row["input_ids"]]))
            logits = (output if isinstance(output, torch.Tensor) else output.logits)[0, :-1].float()
            labels = torch.tensor(row["labels"])[1:]
            total += float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
            tokens += int((labels != IGNORED).sum())
    return total / tokens
