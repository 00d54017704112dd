"""Who answers the questions: base and tuned model, other runs, checkpoints, models and GGUF files, endpoints.

Each is asked in its own chat template by its own tokenizer, with the same system message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from residency import environment, models
from residency.endpoint import Endpoint
from residency.evaluate.answers.generate import Answer, Decoding, answer, likelihoods
from residency.prompts import Before, Example, Prompt

Tell = Callable[[int, int], None]
Hear = Callable[[int, "Given"], None]


@dataclass(frozen=True)
class Given(Answer):
    """An answer as an evaluation keeps it.

    `ended` is an endpoint's own word for why it ended, `counted_by` says whose tokens are counted, and `streamed` that
    the time to the first token is one.
    """

    ended: str = ""
    counted_by: str = "its tokenizer"
    streamed: bool = True

    @property
    def stop_reason(self) -> str:
        """Why it ended: the end token, the limit, or as the endpoint says."""
        return self.ended or ("end token" if self.stopped else "limit")

    @property
    def tokens_per_second(self) -> float | None:
        """Of this answer, over all the time that it took, with others at once; None where none was measured."""
        return self.tokens / self.seconds if self.seconds > 0 else None


@dataclass(frozen=True)
class Kept:
    """Answers in the order of the questions, and the seconds they took together, over every try."""

    answers: list[Given]
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all answers over the time they took."""
        return sum(given.tokens for given in self.answers) / max(self.seconds, 1e-9)


class System(Protocol):
    """One that answers questions, and may say how likely a reference answer is to it."""

    name: str
    kind: str  # base, tuned, run, checkpoint, model, endpoint
    source: str  # where it lies, or is asked
    unit: str  # what its progress counts
    prompt: Prompt  # how it is asked; of an endpoint, the run's own, by which tokens are counted
    notes: list[str]  # what has to be said beside its numbers
    learnt_from: Path | None  # the training rows of another run

    def decided_by(self) -> dict[str, Any]:
        """What decides its answers, besides the question, the decoding and the limit: plain values."""

    def content(self, question: str, before: Before) -> Any:
        """A question as this system is asked it: token ids or messages."""

    def ready(self) -> None:
        """Load what has to be loaded, so that it is in no time that is measured."""

    def ask(
        self,
        contents: Sequence[Any],
        decoding: Decoding,
        *,
        max_new_tokens: int,
        batch: int,
        tell: Tell,
        heard: Hear,
        say: Callable[[str], None],
    ) -> None:
        """Answer each; `heard(place, answer)` as each is finished, and `say` what is worth a line."""

    def example(self, question: str, reference: str, limit: int, before: Before) -> Example | None:
        """A reference answer in this system's tokens; None where it says no likelihoods."""

    def likelihoods(self, examples: Sequence[Example]) -> list[tuple[float, int]]:
        """Summed negative log-likelihood (nats) of each reference answer, and its tokens."""

    def same_tokens(self, other: Prompt) -> bool:
        """Whether its tokens are those of another tokenizer, so that what is counted a token can be compared."""

    def caveats(self, decoding: Decoding) -> list[str]:
        """What can't be made the same as for the others."""

    def close(self) -> None:
        """Let go of the memory."""


class Local:
    """A model on this machine, loaded when it is first asked.

    `load` takes the number format; `weights` gives what tells these weights from others, such as a hash.
    """

    unit: str = "tokens"

    def __init__(
        self,
        name: str,
        kind: str,
        source: str,
        prompt: Prompt,
        *,
        load: Callable[[torch.dtype], Any],
        weights: Callable[[], Any],
        notes: Sequence[str] = (),
        learnt_from: Path | None = None,
    ) -> None:
        self.name, self.kind, self.source, self.prompt = name, kind, source, prompt
        self.load, self.weights = load, weights
        self.notes, self.learnt_from = list(notes), learnt_from
        self._model: Any = None
        self._decided_by: dict[str, Any] = {}

    def decided_by(self) -> dict[str, Any]:
        """The weights, the number format, and what ends an answer."""
        if not self._decided_by:
            precision = str(models.fast_dtype()).removeprefix("torch.")
            self._decided_by = {"weights": self.weights(), "precision": precision, "ends": self.prompt.stop_ids}
        return self._decided_by

    def content(self, question: str, before: Before) -> list[int]:
        """Token ids of the prompt."""
        return self.prompt.prompt_ids(question, before)

    def ready(self) -> None:
        """The model as this machine answers fastest: bf16 where the processor has it, on a GPU where there is one."""
        if self._model is None:
            self._model = self.load(models.fast_dtype()).to(models.device())

    def ask(
        self,
        contents: Sequence[Any],
        decoding: Decoding,
        *,
        max_new_tokens: int,
        batch: int,
        tell: Tell,
        heard: Hear,
        say: Callable[[str], None],
    ) -> None:
        """Answer each, `batch` at a time."""
        self.ready()
        answer(
            self._model,
            self.prompt,
            contents,
            decoding,
            max_new_tokens=max_new_tokens,
            batch=batch,
            tell=tell,
            heard=lambda place, own: heard(place, Given(**asdict(own))),
            say=say,
        )

    def example(self, question: str, reference: str, limit: int, before: Before) -> Example | None:
        """The reference answer after its prompt."""
        return self.prompt.answer_example(question, reference, limit, before)

    def likelihoods(self, examples: Sequence[Example]) -> list[tuple[float, int]]:
        """Of each example's answer tokens, its end token included."""
        self.ready()
        return likelihoods(self._model, examples)

    def same_tokens(self, other: Prompt) -> bool:
        """Whether both tokenizers have the same tokens."""
        mine, theirs = self.prompt.tokenizer, other.tokenizer
        return mine is theirs or mine.get_vocab() == theirs.get_vocab()

    def caveats(self, decoding: Decoding) -> list[str]:
        """None: it is decoded as the others are."""
        return []

    def close(self) -> None:
        """Let go of the model."""
        self._model = None
        environment.give_back_memory()


class Remote:
    """A model at an OpenAI-compatible endpoint, asked one question after the other so that its times are its own."""

    kind: str = "endpoint"
    unit: str = "answers"
    learnt_from: Path | None = None

    def __init__(self, name: str, endpoint: Endpoint, system: str | None, prompt: Prompt) -> None:
        self.name, self.endpoint, self.system, self.prompt = name, endpoint, system, prompt
        self.source = f"{endpoint.address}#{endpoint.model}"
        self.notes: list[str] = []

    def decided_by(self) -> dict[str, Any]:
        """Its address and the model's name: nobody can tell whether another model answers to it today."""
        return {"endpoint": self.endpoint.address, "model": self.endpoint.model}

    def content(self, question: str, before: Before) -> list[dict[str, str]]:
        """Messages, the run's system message first."""
        system = before.system or self.system
        messages = [{"role": "system", "content": system}] if system else []
        for asked, answered in before.turns:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return [*messages, {"role": "user", "content": question}]

    def ready(self) -> None:
        """Nothing to load."""

    def ask(
        self,
        contents: Sequence[Any],
        decoding: Decoding,
        *,
        max_new_tokens: int,
        batch: int,
        tell: Tell,
        heard: Hear,
        say: Callable[[str], None],
    ) -> None:
        """Answer each, one at a time, at temperature 0; a penalty on repetition is no part of the interface."""
        for place, messages in enumerate(contents):
            reply = self.endpoint.stream(messages, max_new_tokens)
            text = reply.text.strip()
            tokens = reply.tokens
            if tokens is None:
                tokens = len(self.prompt.tokenizer(text, add_special_tokens=False)["input_ids"])
            given = Given(
                text=text,
                tokens=tokens,
                stopped=reply.reason != "length" if reply.reason else tokens < max_new_tokens,
                first_token_seconds=reply.first,
                seconds=reply.seconds,
                ended=reply.reason or "not said",
                counted_by="the run's tokenizer" if reply.tokens is None else "the endpoint",
                streamed=reply.streamed,
            )
            heard(place, given)
            tell(place + 1, len(contents))

    def example(self, question: str, reference: str, limit: int, before: Before) -> Example | None:
        """None: endpoints say no likelihood of a given text."""
        return None

    def likelihoods(self, examples: Sequence[Example]) -> list[tuple[float, int]]:
        """None are said."""
        return []

    def same_tokens(self, other: Prompt) -> bool:
        """Not known, so taken to be others."""
        return False

    def caveats(self, decoding: Decoding) -> list[str]:
        """A penalty that could not be asked for."""
        if not decoding.settings():
            return []
        return [
            f"asked at temperature 0 without what the others were held to ({decoding.name}): endpoints have no such"
        ]

    def close(self) -> None:
        """Nothing is held."""
