"""What sections of a recipe are, and the settings of each training method, schedule and way to make pairs."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, and a loaded recipe can't be changed in place."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


LoraVariant = Literal["standard", "rslora", "dora", "pissa", "olora"]


class LoraSection(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(16, ge=1, le=1024, description="rank of the update matrices")
    alpha: float = Field(32, gt=0, description="scale: updates are multiplied by alpha / rank")
    dropout: Share = Field(0.0, description="dropout before the adapter; on a CPU it costs a third of the speed")
    targets: tuple[str, ...] = Field(("all-linear",), min_length=1, description="module names, or all-linear")
    variant: LoraVariant = Field(
        "standard", description="scale by the root of the rank (rslora), directions apart (dora), or another start"
    )


class DpoSection(Section):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), as TRL does it."""

    beta: float = Field(0.1, gt=0, le=100, description="how firmly the model is held to the reference")
    loss_type: Literal["sigmoid", "robust", "ipo", "hinge"] = Field(
        "sigmoid", description="DPO's own (sigmoid), for noisy votes (robust), IPO, or SLiC's hinge"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="of robust: the share of pairs that are swapped")
    reference: Literal["start", "base"] = Field(
        "start", description="what the model is held to: the weights that training begins with, or adapters turned off"
    )

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> DpoSection:
        if self.label_smoothing and self.loss_type != "robust":
            raise ValueError(f"label_smoothing is of loss_type robust, and loss_type is {self.loss_type}")
        return self


def against_dpo(train: Any, learn: str) -> str:
    """Which setting of a recipe's `train` section, or of `prompt.learn`, fails under DPO; empty where all hold."""
    lora = train.lora if train.method in ("lora", "qlora") else LoraSection()
    changes = train.method in ("full", "freeze")
    reasons = {
        "prompt.learn is everything, and answers are compared; set answer": learn != "answer",
        "train.label_smoothing is of tokens; for swapped pairs set train.dpo.loss_type: robust and "
        "train.dpo.label_smoothing": train.label_smoothing > 0,
        f"train.lora.dropout is {lora.dropout:g}, and a comparison must not hang on chance; set 0": lora.dropout > 0,
        f"train.lora.variant {lora.variant} changes the base; use standard, rslora or dora": lora.variant
        in ("pissa", "olora"),
        "TRL can't hold a model to its start under train.method prompt-tuning; use lora": train.method
        == "prompt-tuning",
        f"train.dpo.reference is base, which train.method {train.method} changes; set start": changes
        and train.dpo.reference == "base",
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def against_trust(base: str, revision: str | None) -> str:
    """Why code of the model `base` at `revision` may not run; empty where repository and commit are named."""
    if not revision:
        return "trust_remote_code needs a revision, so that the code you have read is the code that runs"
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        return "trust_remote_code needs a commit (40 hexadecimal digits) as revision: a branch or a tag can move"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", base):
        return "trust_remote_code is for a model of the hub: name its repository, OWNER/NAME, as base"
    return ""


class DistributedSection(Section):
    """How several processes, started by torchrun, share a training."""

    strategy: Literal["ddp", "fsdp", "deepspeed"] = Field(
        "ddp", description="the whole model on each rank (ddp), a part of each weight (fsdp), or as DeepSpeed is told"
    )
    deepspeed: str | None = Field(None, min_length=1, description="of deepspeed: the JSON file of its settings")
    recompute: bool = Field(False, description="of fsdp: keep no layer's activations, and compute them once more")

    @model_validator(mode="after")
    def _settings_are_there(self) -> DistributedSection:
        if self.recompute and self.strategy != "fsdp":
            raise ValueError(f"recompute is of strategy fsdp, and strategy is {self.strategy}")
        if (self.strategy == "deepspeed") != (self.deepspeed is not None):
            raise ValueError(
                f"strategy is {self.strategy}, and deepspeed names {self.deepspeed or 'no file'}; "
                "strategy: deepspeed goes with a JSON file of its settings"
            )
        return self


def against_ranks(train: Any, world: int) -> str:
    """Which setting of a recipe's `train` section fails in `world` processes; empty where all hold."""
    strategy = train.distributed.strategy
    shares = strategy in ("fsdp", "deepspeed")
    reasons = {
        "train.objective dpo runs in one process": train.objective == "dpo" and world > 1,
        f"train.method {train.method} can't be shared by fsdp; use lora or full, or train.distributed.strategy: ddp": (
            strategy == "fsdp" and train.method not in ("lora", "full")
        ),
        f"train.lora.variant {train.lora.variant} reads whole weights, and {strategy} shares them out; use standard": (
            shares and train.method == "lora" and train.lora.variant not in ("standard", "rslora")
        ),
        f"train.optimizer {train.optimizer} can't be shared by fsdp; use adamw": (
            strategy == "fsdp" and train.optimizer != "adamw"
        ),
        f"train.best_by {train.best_by} needs answers of a whole model, and {strategy} shares it out; use loss": (
            shares and train.best_by != "loss"
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class FreezeSection(Section):
    """Every weight is frozen but the last layers and the norm after them."""

    train_last: int = Field(2, ge=0, description="how many of the last layers learn")
    head: bool = Field(False, description="learn the output head too; where it is tied, the embeddings with it")

    @model_validator(mode="after")
    def _something_learns(self) -> FreezeSection:
        if not self.train_last and not self.head:
            raise ValueError("train_last is 0 and head is false: nothing would learn; set one of them")
        return self


class Ia3Section(Section):
    """Learnt factors on keys, values and feed-forward layers (Liu et al. 2022, arXiv:2205.05638)."""

    targets: tuple[str, ...] = Field((), description="module names; peft's own for the architecture when left out")
    feedforward: tuple[str, ...] = Field((), description="those of the targets whose input is scaled, not the output")


class PromptTuningSection(Section):
    """Learnt embeddings before each prompt (Lester et al. 2021, arXiv:2104.08691)."""

    virtual_tokens: int = Field(20, ge=1, le=1000, description="how many embeddings are learnt")


class ScheduleSection(Section):
    """What some courses of the learning rate need to know."""

    floor: Share = Field(0.0, description="of any schedule: it ends at this share of the peak")
    drops: int = Field(3, ge=1, le=100, description="of step: how often the rate drops, at equal distances")
    drop: float = Field(0.5, gt=0, lt=1, description="of step: what a drop multiplies the rate by")
    end: float = Field(0.01, gt=0, lt=1, description="of exponential: the share of the peak that it ends at")
    power: float = Field(2.0, gt=0, le=10, description="of polynomial: its power; 1 is linear")
    timescale: int | None = Field(None, ge=1, description="of inverse-square-root: steps; the warm-up when left out")
    decay: float = Field(0.2, gt=0, le=1, description="of warmup-stable-decay: share of the steps that decay")
    cycles: int = Field(3, ge=1, le=100, description="of cosine-restarts: how many cosines follow each other")


class SynthesiseSection(Section):
    """How documents become question-answer pairs: by rules, by a model, or by both."""

    by: tuple[Literal["rules", "model"], ...] = Field(
        ("rules",), min_length=1, description="rules (headings, FAQs, glossaries), model, or both"
    )
    endpoint: str | None = Field(
        None, description="base address of an OpenAI-compatible API; the run's own model when left out"
    )
    model: str | None = Field(None, description="name of the model at the endpoint")
    key_env: str | None = Field(
        "OPENAI_API_KEY", description="environment variable that holds the endpoint's key; null where it needs none"
    )
    temperature: float | None = Field(None, ge=0, le=2, description="sampling at the endpoint; its own when left out")
    timeout: float = Field(60, gt=0, le=3600, description="seconds to wait for the endpoint")
    retries: int = Field(4, ge=0, le=20, description="further tries when the endpoint is busy or fails")
    at_once: int = Field(4, ge=1, le=256, description="passages that a model is asked about at once")
    passage_words: int = Field(200, ge=20, description="longest passage in words; one long sentence may go over it")
    pairs: int = Field(3, ge=1, le=20, description="pairs that a model is asked for from one passage")
    grounded: float = Field(0.7, ge=0, le=1, description="least share of an answer's words that its passage has")
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard similarity from which two pairs are one")

    @model_validator(mode="after")
    def _endpoint_is_whole(self) -> SynthesiseSection:
        if self.endpoint is None:
            if self.model is not None:
                raise ValueError("model names one at an endpoint: add the endpoint, or leave out model")
            return self
        if "model" not in self.by:
            raise ValueError("endpoint is asked only where by has model: add it, or leave out endpoint")
        if not self.model:
            raise ValueError("endpoint needs model, the name of the model to ask there")
        if not _is_web_address(self.endpoint):
            raise ValueError(
                f"endpoint is {self.endpoint!r}; expected an address such as https://host/v1, no user name"
            )
        return self


class EvaluateSection(Section):
    """How base and tuned model are compared."""

    questions: int = Field(50, ge=1, description="held-out questions that both models answer, at most")
    max_new_tokens: int = Field(200, ge=1, description="longest answer in tokens")
    decoding: Literal["auto", "greedy"] = Field("auto", description="auto: chosen on the validation questions")
    off_topic: bool = Field(True, description="also ask ten questions that have nothing to do with the subject")
    batch: int = Field(64, ge=1, description="questions answered at once")
    resamples: int = Field(2000, ge=100, description="bootstrap resamples behind each interval")


class StudySection(Section):
    """What `residency study` sets beside fine-tuning."""

    instruction: str | None = Field(
        None, min_length=1, description="written instruction; made from the training data when left out"
    )
    neighbours: int = Field(
        3, ge=1, le=50, description="nearest training dialogues put before a question, as examples or notes, at most"
    )
    lora_learning_rate: float | None = Field(
        None, gt=0, le=1, description="of the study's LoRA; when left out, train's, or ten times that of all weights"
    )
    full_learning_rate: float | None = Field(
        None, gt=0, le=1, description="of the study's full fine-tuning; when left out, train's, or a tenth of adapters'"
    )


class GuardSection(Section):
    """Notices beside the answers of `chat` and `serve`; none changes an answer."""

    emergencies: bool = Field(False, description="where a question tells of a red flag: call the emergency number")
    not_a_doctor: bool = Field(False, description="once a conversation: this is a program and no doctor")
    role: bool = Field(False, description="where a question is not about health: say so and offer a redirect")
    answers: bool = Field(False, description="where an answer names a dose with no caution or advises against care")
    rules: str | None = Field(None, min_length=1, description="YAML file of your own rules, see docs/guard.md")


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
        )
    except ValueError:  # a port that is no number
        return False
