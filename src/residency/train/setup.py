"""How a recipe is gone through on this machine: steps, precision, the model to train, transformers' arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from residency import models, ranks
from residency.dither import dither
from residency.errors import UserError
from residency.progress import Progress
from residency.prompts import Example, Prompt
from residency.recipe import Recipe, TrainSection
from residency.sections import against_ranks
from residency.train import adapters, checkpoints, distributed, outline, quantised
from residency.train.best import choosing
from residency.train.optimizers import NAMES
from residency.train.schedules import steps_of
from residency.workspace import Run

CPU_TOKENS = 1024  # measured: larger micro-batches fall out of a CPU's caches and are slower
COMPILED_TOKENS = 2048  # not so where the layers are compiled, which go over memory less often
COMPILED_FROM = 2e13  # operations of a run: about a minute of two cores, twice what the compiler takes of it
COMPILED = ("full", "lora", "freeze", "ia3")
GPU_TOKENS = 16384
VALIDATIONS_PER_EPOCH = 2
WAITS = 7200  # seconds that ranks wait for each other: while the first writes a checkpoint, or answers questions


@dataclass(frozen=True)
class Setup:
    """How this machine goes through the recipe's steps."""

    precision: str
    device: torch.device
    steps: int
    steps_per_epoch: int
    tokens_per_batch: int
    compiled: bool = False  # the layers, by torch.compile
    int8: bool = False  # the backward pass through them
    packs: bool = False  # rows laid end to end, where the model allows it

    @property
    def going(self) -> dict[str, Any]:
        """How a ResidencyTrainer is to go through a step."""
        ways = {"compiles": self.compiled, "int8": self.int8, "packs": self.packs}
        return {"tokens_per_batch": self.tokens_per_batch, **ways}


def setup_of(recipe: Recipe, lengths: Sequence[int]) -> Setup:
    """bf16 where the processor computes in it, micro-batches of a size that this device is fast at.

    `lengths`: tokens of each training example.
    """
    section, device = recipe.train, models.device()
    fast = "bf16" if models.computes_bf16() else "fp32"
    steps, steps_per_epoch = steps_of(section, len(lengths))
    compiled = compiles(recipe, device, lengths, steps)
    precision = fast if section.precision == "auto" else section.precision
    return Setup(
        precision=precision,
        device=device,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        tokens_per_batch=tokens_at_once(section, device, compiled=compiled),
        compiled=compiled,
        int8=in_int8(section, device, precision, compiled=compiled),
        packs=packs(section, device),
    )


def in_int8(section: TrainSection, device: torch.device, precision: str, *, compiled: bool) -> bool:
    """Whether the backward pass multiplies in int8: as the recipe says, or where a compiled run in bf16 gains by it.

    Raises:
        UserError: it is asked for where training does not go through it.
    """
    if section.int8 is True and not compiled:
        raise UserError("train.int8: true where the layers are not compiled", "train.compile: true", "or leave it out")
    if section.int8 != "auto":
        return section.int8
    return compiled and precision == "bf16" and device.type == "cpu" and models.computes_int8()


def packs(section: TrainSection, device: torch.device) -> bool:
    """Whether rows go through end to end: on a CPU, where each process holds the whole model.

    Not with NEFTune: the size of its noise is that of a row.
    """
    whole = section.objective == "sft" and section.distributed.strategy == "ddp"
    return whole and device.type == "cpu" and not section.neftune


def tokens_at_once(section: TrainSection, device: torch.device, *, compiled: bool) -> int:
    """The recipe's size of a micro-batch, or the one that such a device is fast at."""
    if section.tokens_per_batch != "auto":
        return section.tokens_per_batch
    if device.type != "cpu":
        return GPU_TOKENS
    return COMPILED_TOKENS if compiled else CPU_TOKENS


def compiles(recipe: Recipe, device: torch.device, lengths: Sequence[int], steps: int) -> bool:
    """Whether the layers are compiled: as the recipe says, or where a run on a CPU is so long that it pays.

    The run's operations decide and no clock: the same recipe is trained in the same way each time.

    Raises:
        UserError: it is asked for where training does not go through it.
    """
    section = recipe.train
    if section.compile is True and section.objective != "sft":
        raise UserError(f"train.compile: true with the objective {section.objective}", "auto or false", "leave it out")
    if section.compile != "auto":
        return section.compile
    shared_out = section.distributed.strategy != "ddp"
    if device.type != "cpu" or section.objective != "sft" or section.method not in COMPILED or shared_out:
        return False
    tokens = steps * section.examples_per_step * sum(lengths) / max(len(lengths), 1)
    return 6 * outline.parameters(recipe.model) * tokens >= COMPILED_FROM


def examples_of(recipe: Recipe, run: Run, prompt: Prompt) -> tuple[Sequence[Example], Sequence[Example]]:
    """The examples of training and validation, in tokens; of a pair to be preferred from, the longer answer's."""
    paired = recipe.train.objective == "dpo"
    training, validation = (
        prompt.examples(
            ((d.question, max(d.answer, d.rejected, key=len) if paired else d.answer, d.before) for d in dialogues),
            recipe.model.max_length,
        )
        for dialogues in (run.dialogues("train"), run.dialogues("validation"))
    )
    return training, validation


def build_model(recipe: Recipe, setup: Setup, progress: Progress) -> Any:
    """The model to train: frozen weights may be bf16, weights that learn stay in float32 and are cast as they go."""
    section, attention = recipe.train, recipe.model.attention
    frozen = section.method in adapters.ON_A_BASE
    dtype = torch.bfloat16 if setup.precision == "bf16" and frozen else torch.float32
    if attention == "auto":
        attention = "eager" if setup.device.type == "cpu" else "sdpa"
    if section.method == "qlora":
        quantised.need("train.method qlora", setup.device)
    if section.optimizer == "adamw-8bit":
        quantised.need("train.optimizer adamw-8bit", setup.device)
    load = quantised.load_packed if section.method == "qlora" else models.load_base
    torch.manual_seed(section.seed)
    return adapters.attach(load(recipe.model, dtype, attention, progress), section)


def dither_learning(model: Any, section: TrainSection, progress: Progress) -> float:
    """Draw the lower bits of weights that are to learn (`residency.dither`), say so, and return their share.

    An adapter's are no numbers of bf16; those under it are drawn when it is merged.
    """
    if not section.dither or section.method in adapters.ON_A_BASE:
        return 0.0
    drawn, count = dither((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    say_dithered(drawn / max(count, 1), progress.say)
    return drawn / max(count, 1)


def say_dithered(share: float, say: Callable[[str], None], which: str = "") -> None:
    """Tell, where there are any, of weights whose lower bits were drawn."""
    if share:
        say(
            f"{share:.0%} of the weights {which}are numbers of bf16: the bits below it are drawn, so that small steps "
            "outlive its rounding (train.dither)"
        )


def validated_every(section: TrainSection, setup: Setup) -> int:
    """Steps from one validation to the next."""
    return section.evaluate_every or max(1, round(setup.steps_per_epoch / VALIDATIONS_PER_EPOCH))


def arguments(recipe: Recipe, run: Run, setup: Setup, *, validated: bool) -> TrainingArguments:
    """The recipe in transformers' words."""
    section = recipe.train
    every = validated_every(section, setup)
    return TrainingArguments(
        output_dir=str(run.path(checkpoints.FOLDER)),
        per_device_train_batch_size=section.examples_per_step,
        max_steps=setup.steps,
        learning_rate=section.learning_rate,
        optim=NAMES[section.optimizer],
        weight_decay=section.weight_decay,
        max_grad_norm=section.clip,
        neftune_noise_alpha=section.neftune or None,
        bf16=setup.precision == "bf16",
        use_cpu=setup.device.type == "cpu",
        seed=section.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validated else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        restore_callback_states_from_checkpoint=True,
        **choosing(section, validated=validated),
        remove_unused_columns=False,
        dataloader_pin_memory=setup.device.type == "cuda",
        disable_tqdm=True,
        report_to=list(section.trackers) or "none",
        run_name=recipe.name,
        **_between_ranks(section),
    )


def _between_ranks(section: TrainSection) -> dict[str, Any]:
    """Arguments for several processes; the backward pass that reduces gradients meets every weight that learns.

    Raises:
        UserError: the recipe asks for what can't be done together.
    """
    strategy = section.distributed.strategy
    if reason := against_ranks(section, ranks.world()):
        raise UserError(reason)
    found: dict[str, Any] = {"ddp_timeout": WAITS}
    if strategy == "deepspeed":
        distributed.refuse_deepspeed(Path(section.distributed.deepspeed or ""))
        return found | {"deepspeed": section.distributed.deepspeed}
    if strategy == "fsdp" and ranks.started():
        recompute = section.distributed.recompute
        config = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT", "activation_checkpointing": recompute}
        return found | {"fsdp": True, "fsdp_config": config}
    return found | {"ddp_find_unused_parameters": False, "ddp_broadcast_buffers": False}
