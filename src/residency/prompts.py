"""The only place that turns a dialogue into tokens and says which of them are the answer.

Prompt and answer are tokenised apart and joined as ids, so that the model sees the same prompt tokens when it learns
and when it is asked. The token that ends the answer belongs to the answer: a model that never learns it never stops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from residency.errors import UserError
from residency.recipe import PromptSection

QUESTION_ANSWER = "### Question:\n{question}\n\n### Answer:\n{answer}"
PLACEHOLDERS = ("{question}", "{answer}")


@dataclass(frozen=True)
class Example:
    """A dialogue in tokens: `input_ids` [tokens]; the loss is taken over `input_ids[learn_from:]`."""

    input_ids: tuple[int, ...]
    learn_from: int

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def learnt(self) -> int:
        """How many tokens carry loss. The first token of a text has nothing before it to be predicted from."""
        return len(self.input_ids) - max(self.learn_from, 1)


@dataclass(frozen=True)
class Prompt:
    """A template joined with a tokenizer."""

    tokenizer: Any
    section: PromptSection
    template: str
    end_ids: tuple[int, ...]

    @classmethod
    def build(cls, section: PromptSection, tokenizer: Any) -> Prompt:
        """The prompt that a recipe asks for.

        Raises:
            UserError: a chat template is asked for and the tokenizer has none, or a template file is missing or wrong.
        """
        template = _choose(section, tokenizer)
        if template != "chat" and section.system:
            raise UserError(
                "prompt.system is set, but the template has no place for it",
                "prompt.template: chat and a tokenizer with a chat template",
            )
        return cls(tokenizer, section, template, _end_ids(template, section, tokenizer))

    def text(self, question: str) -> str:
        """Everything that stands before the answer; empty for a record of plain text."""
        if not question:
            return ""
        if self.template == "chat":
            return str(self._chat(question))
        return self.template.partition("{answer}")[0].replace("{question}", question)

    def full_text(self, question: str, answer: str) -> str:
        """Prompt, answer and end token as one text."""
        return self.text(question) + answer + (self.tokenizer.decode(self.end_ids) if self.section.end_token else "")

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of everything before the answer; begins as the tokenizer begins a text."""
        if self.template == "chat" and question:
            return list(self.tokenizer(self.text(question), add_special_tokens=False)["input_ids"])
        ids = list(self.tokenizer(self.text(question))["input_ids"])
        end = self.tokenizer.eos_token_id
        if ids and ids[-1] == end and len(ids) > 1:
            ids.pop()
        return ids

    def example(self, question: str, answer: str, max_length: int | None = None) -> Example:
        """A dialogue in tokens, cut at `max_length` tokens where it is given; a cut answer loses its end token."""
        prompt = self.prompt_ids(question)
        ids = prompt + list(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        if self.section.end_token:
            ids += self.end_ids
        learn_from = 0 if self.section.learn == "everything" else len(prompt)
        return Example(tuple(ids[:max_length]), learn_from)

    def answer_example(self, question: str, answer: str, max_length: int | None = None) -> Example:
        """The same, with the loss over the answer and its end token, whatever the recipe learns: for the NLL."""
        section = self.section.model_copy(update={"learn": "answer", "end_token": True})
        return replace(self, section=section).example(question, answer, max_length)

    def decode(self, ids: list[int]) -> str:
        """The answer's text, without end tokens and surrounding white space."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end an answer: the one that was learnt, and the tokenizer's own."""
        ids = [*self.end_ids[-1:], self.tokenizer.eos_token_id]
        return sorted({i for i in ids if i is not None})

    def _chat(self, question: str) -> Any:
        return _render(self.tokenizer, self.section, question)


def _choose(section: PromptSection, tokenizer: Any) -> str:
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    name = section.template
    if name == "auto":
        return "chat" if has_chat else QUESTION_ANSWER
    if name == "chat":
        if not has_chat:
            raise UserError(
                "prompt.template is chat, but this tokenizer has no chat template",
                "a chat model, or another template",
                "set prompt.template: question-answer",
            )
        return "chat"
    if name == "question-answer":
        return QUESTION_ANSWER
    file = Path(name)
    if not file.is_file():
        raise UserError(f"prompt.template {name}: no such file", "auto, chat, question-answer or a text file")
    return _checked(file.read_text("utf-8"), name)


def _checked(template: str, name: str) -> str:
    missing = [field for field in PLACEHOLDERS if template.count(field) != 1]
    if missing:
        raise UserError(f"prompt.template {name}: {missing[0]} does not stand in it once", "each placeholder once")
    question, answer = (template.index(field) for field in PLACEHOLDERS)
    if answer < question:
        raise UserError(f"prompt.template {name}: {{answer}} stands before {{question}}", "the question first")
    return template


def _render(tokenizer: Any, section: PromptSection, question: str, answer: str | None = None) -> str:
    messages = [{"role": "system", "content": section.system}] if section.system else []
    messages.append({"role": "user", "content": question})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None))


def _end_ids(template: str, section: PromptSection, tokenizer: Any) -> tuple[int, ...]:
    """What ends an answer: text after {answer} in a template, and the token that the model's own turns end with."""
    end = tokenizer.eos_token_id
    if template != "chat":
        tail = template.partition("{answer}")[2].rstrip()
        ids = list(tokenizer(tail, add_special_tokens=False)["input_ids"]) if tail else []
        return tuple(ids + ([end] if end is not None else []))
    mark = "the answer"
    rest = _render(tokenizer, section, "q", mark).rpartition(mark)[2]
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    for place, token in enumerate(ids):
        if token in special:
            return tuple(ids[: place + 1])
    return (end,) if end is not None else ()
