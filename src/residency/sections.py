"""What sections of a recipe are, and the settings of each training method and schedule."""

from __future__ import annotations

from typing import Annotated, Literal

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
