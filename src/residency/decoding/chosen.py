"""A run's model, ready to answer as its evaluation found it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from residency import models
from residency.decoding.choosing import Choosing
from residency.prompts import Prompt
from residency.workspace import Run


@dataclass(frozen=True)
class Chosen:
    """A model, its prompts, how its next token is chosen, and the tokens that prompt and answer may have together.

    `name` says what it is to the run: tuned or base.
    """

    name: str
    model: Any
    prompt: Prompt
    choosing: Choosing
    window: int

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def pad_id(self) -> int:
        """What `generate` fills up with where it must."""
        return self.prompt.tokenizer.pad_token_id or 0


def tuned(run: Run, prompt: Prompt) -> Chosen:
    """The run's model under the decoding that its evaluation chose, or plain greedy before an evaluation.

    Raises:
        UserError: the run was not trained.
    """
    model: Any = models.load_tuned(run.need("model", "train"), models.fast_dtype())
    return _chosen("tuned", model, prompt, run)


def base(run: Run, prompt: Prompt) -> Chosen:
    """The model that the run began with, under the same decoding."""
    model: Any = models.load_base(run.recipe.model, models.fast_dtype())
    return _chosen("base", model, prompt, run)


def _chosen(name: str, model: Any, prompt: Prompt, run: Run) -> Chosen:
    # What a generation config leaves open is taken from the model's own, which would be a decoding that nobody chose.
    model.generation_config = GenerationConfig()
    return Chosen(name, model.to(models.device()), prompt, choosing(run), window(model.config, run))


def choosing(run: Run) -> Choosing:
    """The decoding that the run's evaluation chose, or plain greedy before an evaluation."""
    return Choosing(**run.chosen_decoding())


def window(config: Any, run: Run) -> int:
    """The tokens that prompt and answer may have together: as many as in training, where the model has the places."""
    longest = getattr(config, "max_position_embeddings", None) or run.recipe.model.max_length
    return int(min(longest, run.recipe.model.max_length))
