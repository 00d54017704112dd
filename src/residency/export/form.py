"""The text that a dialogue becomes, taken apart: what other programs need to put the same prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass

from residency.errors import UserError
from residency.prompts import Before, Prompt

SYSTEM, ASKED, ANSWERED, AGAIN = "s7xq", "q8xv", "a9xw", "q0xz"  # no template treats such words in a way of its own


@dataclass(frozen=True)
class Form:
    """The parts of a conversation's text, in their order.

    `bare` begins one without a system message (some templates put one of their own); `before_system` and `after_system`
    one with it. Then a turn is `open`, question, `middle`, answer, `close`.
    """

    bare: str
    before_system: str | None
    after_system: str
    open: str
    middle: str
    close: str

    @classmethod
    def of(cls, prompt: Prompt) -> Form:
        """Taken apart by a few probes.

        Raises:
            UserError: the template does more than put texts in their places, so that no other program could follow it.
        """
        one = prompt.text(ASKED)
        two = prompt.text(AGAIN, Before(turns=((ASKED, ANSWERED),)))
        begin, middle = _parts(one, ASKED)
        first, rest = _parts(two, ASKED)
        inner, after = _parts(rest, AGAIN)
        said, between = _parts(inner, ANSWERED)
        opening = _common_end(begin, between)
        close = between.removesuffix(opening)
        system = _system(prompt, opening)
        found = cls(begin.removesuffix(opening), *system, opening, middle, close)
        if (first, said, after) != (begin, middle, middle) or found.text([(ASKED, ANSWERED)], AGAIN) != two:
            raise UserError(
                "prompt.template: it changes with what stands before, and can't be written for another program",
                "a template that puts each turn in its place",
            )
        return found

    def text(self, turns: list[tuple[str, str]], question: str, system: str = "") -> str:
        """The whole text before an answer, put together again."""
        start = f"{self.before_system}{system}{self.after_system}" if system else self.bare
        said = "".join(f"{self.open}{q}{self.middle}{a}{self.close}" for q, a in turns)
        return f"{start}{said}{self.open}{question}{self.middle}"

    def jinja(self) -> str:
        """The same as a chat template for transformers and llama.cpp."""
        start = f"{{{{ {_quoted(self.bare)} }}}}"
        if self.before_system is not None:
            with_system = (
                f"{{{{ {_quoted(self.before_system)} + messages[0]['content'] + {_quoted(self.after_system)} }}}}"
            )
            start = f"{{% if messages[0]['role'] == 'system' %}}{with_system}{{% else %}}{start}{{% endif %}}"
        user = f"{{{{ {_quoted(self.open)} + message['content'] + {_quoted(self.middle)} }}}}"
        assistant = f"{{{{ message['content'] + {_quoted(self.close)} }}}}"
        return (
            f"{start}{{% for message in messages %}}{{% if message['role'] == 'user' %}}{user}"
            f"{{% elif message['role'] == 'assistant' %}}{assistant}{{% endif %}}{{% endfor %}}"
        )

    def go(self) -> str:
        """The same as a template of Go, for Ollama."""
        start = self.bare
        if self.before_system is not None:
            system = f"{self.before_system}{{{{ .System }}}}{self.after_system}"
            start = f"{{{{ if .System }}}}{system}{{{{ else }}}}{self.bare}{{{{ end }}}}"
        return (
            f'{start}{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{self.open}{{{{ .Content }}}}{self.middle}'
            f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{self.close}{{{{ end }}}}{{{{ end }}}}'
        )


def _system(prompt: Prompt, opening: str) -> tuple[str | None, str]:
    if prompt.template != "chat":
        text = prompt.text(ASKED, Before(SYSTEM))
    else:
        try:
            text = prompt.text(ASKED, Before(SYSTEM))
        except UserError:  # a chat template without a place for it
            return None, ""
    if text.count(SYSTEM) != 1:
        return None, ""
    before, rest = text.split(SYSTEM)
    return before, rest.split(ASKED)[0].removesuffix(opening)


def _parts(text: str, word: str) -> tuple[str, str]:
    if text.count(word) != 1:
        raise UserError(
            f"prompt.template: a text stands in it {text.count(word)} times", "each question and answer once"
        )
    before, after = text.split(word)
    return before, after


def _common_end(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[-length - 1] == other[-length - 1]:
        length += 1
    return one[len(one) - length :]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
