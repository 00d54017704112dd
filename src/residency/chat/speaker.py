"""A model that says its answer piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import TextStreamer

from residency import models
from residency.decoding import chosen
from residency.decoding.chosen import Chosen
from residency.prompts import NOTHING, Before, Prompt
from residency.workspace import Run

Heard = Callable[[str], None]


@dataclass(frozen=True)
class Said:
    """An answer; `ended` is end (by itself), limit (of new tokens) or stopped (by the listener)."""

    text: str
    tokens: int
    ended: str


@dataclass(frozen=True)
class Speaker:
    """A model, its prompts, and how its next token is chosen."""

    name: str
    model: Any
    prompt: Prompt
    decoding: GenerationConfig
    window: int  # tokens that a prompt and its answer may have together

    def say(
        self, question: str, before: Before = NOTHING, max_new_tokens: int = 200, heard: Heard = lambda text: None
    ) -> Said:
        """The answer to a question; `heard` gets each piece of its text as it is there.

        An interruption by the keyboard ends the answer, not the program.
        """
        ids = torch.tensor([self.prompt.prompt_ids(question, before)], device=self.model.device)
        pieces = _Pieces(self.prompt, heard)
        ended = "stopped"
        room = max(1, min(max_new_tokens, self.window - ids.shape[1]))
        config = GenerationConfig(**{**self.decoding.to_diff_dict(), "max_new_tokens": room})
        try:
            with torch.inference_mode(), models.quiet_libraries():
                self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=config,
                    streamer=pieces,
                )
            ended = "end" if pieces.ids and pieces.ids[-1] in self.prompt.stop_ids else "limit"
        except KeyboardInterrupt:
            pieces.end()  # type: ignore[no-untyped-call]
        new = pieces.ids[:-1] if ended == "end" else pieces.ids
        return Said(self.prompt.decode(new), len(new), ended)


def tuned(run: Run, prompt: Prompt) -> Speaker:
    """The run's model under the decoding that its evaluation chose, or plain greedy before an evaluation.

    Raises:
        UserError: the run was not trained.
    """
    return _speaker(chosen.tuned(run, prompt))


def base(run: Run, prompt: Prompt) -> Speaker:
    """The model that the run began with, under the same decoding."""
    return _speaker(chosen.base(run, prompt))


def _speaker(found: Chosen) -> Speaker:
    own = {
        "repetition_penalty": found.choosing.repetition_penalty,
        "no_repeat_ngram_size": found.choosing.no_repeat_ngram_size,
    }
    decoding = GenerationConfig(do_sample=False, eos_token_id=found.prompt.stop_ids, pad_token_id=found.pad_id, **own)
    return Speaker(found.name, found.model, found.prompt, decoding, found.window)


class _Pieces(TextStreamer):
    """Text as it can be told from the tokens so far, without the prompt and without what ends an answer."""

    def __init__(self, prompt: Prompt, heard: Heard) -> None:
        super().__init__(prompt.tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.ids: list[int] = []
        self._heard, self._begun, self._prompt_went_by = heard, False, False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_went_by:
            self.ids += value.reshape(-1).tolist()
        self._prompt_went_by = True
        super().put(value)  # type: ignore[no-untyped-call]

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = text if self._begun else text.lstrip()
        if text:
            self._begun = True
            self._heard(text)
