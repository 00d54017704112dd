"""The only place that turns a dialogue into tokens and says which of them are the answer.

Prompt and answer are tokenised apart and joined as ids, so that the model sees the same prompt tokens when it learns
and when it is asked. The token that ends the answer belongs to the answer: a model that never learns it never stops.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

from jinja2 import TemplateError

from residency import untrusted
from residency.errors import UserError
from residency.recipe import PromptSection

QUESTION_ANSWER = "### Question:\n{question}\n\n### Answer:\n{answer}"
BATCH = 4096  # texts tokenised at once
PLACEHOLDERS = ("{question}", "{answer}")
# Templates treat markup and white space around a text in ways of their own; without them a text stands as it is.
PLAIN = re.compile(r"[^\s<>\[\]{}|](?:[^<>\[\]{}|]*[^\s<>\[\]{}|])?")
PROBES = ("qx7", "Is 'this' a \"text\" & more,\nor only a part (of one)? #7 */\\%é")


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
        return max(len(self.input_ids) - max(self.learn_from, 1), 0)


class Examples(Sequence[Example]):
    """Many examples: their tokens lie in one array of 32-bit numbers, a tenth of what tuples of them take."""

    def __init__(self) -> None:
        self._tokens, self._ends, self._learn_from = array("i"), array("q", [0]), array("i")

    def append(self, example: Example) -> None:
        """Add one at the end."""
        self._tokens.extend(example.input_ids)
        self._ends.append(len(self._tokens))
        self._learn_from.append(example.learn_from)

    def __len__(self) -> int:
        return len(self._learn_from)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> list[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | list[Example]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        tokens = self._tokens[self._ends[place] : self._ends[place + 1]]
        return Example(tuple(tokens), self._learn_from[place])


@dataclass(frozen=True)
class Before:
    """What stands before a question: a system message of its own, and earlier questions with their answers."""

    system: str = ""
    turns: tuple[tuple[str, str], ...] = ()


NOTHING = Before()


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
            UserError: a chat template is asked for and the tokenizer has none, or one that reaches beyond its messages;
                or a template file is missing or wrong.
        """
        template = _choose(section, tokenizer)
        if template == "chat":
            untrusted.refuse_reaching(tokenizer.chat_template)
        if template != "chat" and section.system:
            raise UserError(
                "prompt.system is set, but the template has no place for it",
                "prompt.template: chat and a tokenizer with a chat template",
            )
        return cls(tokenizer, section, template, _end_ids(template, section, tokenizer))

    def text(self, question: str, before: Before = NOTHING) -> str:
        """Everything that stands before the answer; empty for a record of plain text."""
        if not question:
            return ""
        if self.template == "chat":
            return _render(self.tokenizer, before.system or self.section.system, before.turns, question)
        head, _, tail = self.template.partition("{answer}")
        blocks = [head.replace("{question}", q) + a + tail for q, a in before.turns]
        last = head.replace("{question}", question)
        return "\n\n".join([*([before.system] if before.system else []), *blocks, last])

    def texts(self, questions: Iterable[str]) -> list[str]:
        """What `text` gives for each question; quickly where the template only puts it in its place."""
        frame = self._frame()
        if frame is None:
            return [self.text(question) for question in questions]
        head, tail = frame
        return [f"{head}{q}{tail}" if PLAIN.fullmatch(q) else self.text(q) for q in questions]

    def _frame(self) -> tuple[str, str] | None:
        """What stands before and after any plain question; None where that depends on the question."""
        short, long = (self.text(probe) for probe in PROBES)
        head, _, tail = short.partition(PROBES[0])
        return (head, tail) if long == head + PROBES[1] + tail and PROBES[0] not in head else None

    @property
    def end(self) -> str:
        """The text that ends an answer; empty where no end is taught."""
        return str(self.tokenizer.decode(self.end_ids)) if self.section.end_token else ""

    def prompt_ids(self, question: str, before: Before = NOTHING) -> list[int]:
        """Token ids of everything before the answer; begins as the tokenizer begins a text."""
        text = self.text(question, before)
        if self.template == "chat" and question:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = list(self.tokenizer(text)["input_ids"])
        end = self.tokenizer.eos_token_id
        if ids and ids[-1] == end and len(ids) > 1:
            ids.pop()
        return ids

    def lengths(self, texts: Sequence[str], answers: Sequence[str]) -> tuple[list[int], list[int]]:
        """Tokens of each prompt, given as its text, and of each whole example; in batches, which is much faster."""
        end = len(self.end_ids) if self.section.end_token else 0
        asked = [len(tokens) - surplus for tokens, surplus in self._prompts(texts)]
        answered = [len(tokens) for tokens in self._encoded(answers, special=False)]
        return asked, [before + own + end for before, own in zip(asked, answered, strict=True)]

    def examples(self, dialogues: Iterable[tuple[str, str, Before]], max_length: int | None = None) -> Examples:
        """Dialogues (question, answer, what stands before) in tokens, as `example` makes them one by one."""
        found, left = Examples(), iter(dialogues)
        while part := list(islice(left, BATCH)):
            prompts = self._prompts([self.text(question, before) for question, _, before in part])
            answers = self._encoded([answer for _, answer, _ in part], special=False)
            for (tokens, surplus), answer in zip(prompts, answers, strict=True):
                prompt = _ids(tokens)
                found.append(self._joined(prompt[: len(prompt) - surplus], _ids(answer), max_length))
        return found

    def _prompts(self, texts: Sequence[str]) -> Iterator[tuple[Sized, int]]:
        """Each prompt in tokens, and how many at its end it must not have."""
        chat = self.template == "chat"
        alone = self.prompt_ids("")  # a record of plain text has no prompt but what a text begins with
        ends = 0 if chat else self._ends_texts()
        for text, tokens in zip(texts, self._encoded(texts, special=not chat), strict=True):
            yield (tokens, ends) if text else (alone, 0)

    def _encoded(self, texts: Sequence[str], *, special: bool) -> Iterator[Sized]:
        """Each text in tokens; without their positions in it, which take time."""
        encoder = getattr(self.tokenizer, "backend_tokenizer", None)
        if encoder is not None:
            encoder.no_truncation()  # an earlier call may have left them on
            encoder.no_padding()
        for start in range(0, len(texts), BATCH):
            part = list(texts[start : start + BATCH])
            if encoder is None:
                yield from self.tokenizer(part, add_special_tokens=special)["input_ids"]
            else:
                yield from encoder.encode_batch_fast(part, add_special_tokens=special)

    @cached_property
    def longest_token(self) -> int:
        """Characters that one token stands for, at most."""
        return max(map(len, self.tokenizer.get_vocab()), default=1)

    def _ends_texts(self) -> int:
        """How many end tokens the tokenizer puts after a text, which a prompt must not have: 1 or 0."""
        ids = self.tokenizer("a")["input_ids"]
        return int(len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id)

    def example(self, question: str, answer: str, max_length: int | None = None, before: Before = NOTHING) -> Example:
        """A dialogue in tokens, cut at `max_length` tokens where it is given; a cut answer loses its end token."""
        answered = list(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        return self._joined(self.prompt_ids(question, before), answered, max_length)

    def _joined(self, prompt: list[int], answer: list[int], max_length: int | None) -> Example:
        ids = [*prompt, *answer, *(self.end_ids if self.section.end_token else ())]
        learn_from = 0 if self.section.learn == "everything" else len(prompt)
        return Example(tuple(ids[:max_length]), learn_from)

    def answer_example(
        self, question: str, answer: str, max_length: int | None = None, before: Before = NOTHING
    ) -> Example:
        """The same, with the loss over the answer and its end token, whatever the recipe learns: for the NLL."""
        section = self.section.model_copy(update={"learn": "answer", "end_token": True})
        return replace(self, section=section).example(question, answer, max_length, before)

    def decode(self, ids: list[int]) -> str:
        """The answer's text, without what ends it and surrounding white space."""
        tail = str(self.tokenizer.decode(self.end_ids, skip_special_tokens=True)).strip()
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip().removesuffix(tail).rstrip()

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """What the tokenizer reads as a token of its own wherever it is written in a text, such as <|im_end|>."""
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return tuple(sorted(text for text in added | set(self.tokenizer.all_special_tokens) if text.strip()))

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end an answer: the one that was learnt, and the tokenizer's own."""
        ids = [*self.end_ids[-1:], self.tokenizer.eos_token_id]
        return sorted({i for i in ids if i is not None})


def _ids(tokens: Any) -> list[int]:
    return list(getattr(tokens, "ids", tokens))


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
    try:
        return _checked(file.read_text("utf-8"), name)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt.template {name}: can't be read ({error})", "a UTF-8 text file") from None


def _checked(template: str, name: str) -> str:
    missing = [field for field in PLACEHOLDERS if template.count(field) != 1]
    if missing:
        raise UserError(f"prompt.template {name}: {missing[0]} does not stand in it once", "each placeholder once")
    question, answer = (template.index(field) for field in PLACEHOLDERS)
    if answer < question:
        raise UserError(f"prompt.template {name}: {{answer}} stands before {{question}}", "the question first")
    return template


def _render(
    tokenizer: Any, system: str | None, turns: tuple[tuple[str, str], ...], question: str, answer: str | None = None
) -> str:
    messages = [{"role": "system", "content": system}] if system else []
    for asked, answered in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    messages.append({"role": "user", "content": question})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None))
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"prompt.template: the tokenizer's chat template refuses a dialogue ({error})",
            fix="leave out prompt.system, or set prompt.template: question-answer",
        ) from None


def _end_ids(template: str, section: PromptSection, tokenizer: Any) -> tuple[int, ...]:
    """What ends an answer: text after {answer} in a template, and the token that the model's own turns end with."""
    end = tokenizer.eos_token_id
    if template != "chat":
        tail = template.partition("{answer}")[2].rstrip()
        ids = list(tokenizer(tail, add_special_tokens=False)["input_ids"]) if tail else []
        return tuple(ids + ([end] if end is not None else []))
    mark = "the answer"
    rest = _render(tokenizer, section.system, (), "q", mark).rpartition(mark)[2]
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    for place, token in enumerate(ids):
        if token in special:
            return tuple(ids[: place + 1])
    return (end,) if end is not None else ()
