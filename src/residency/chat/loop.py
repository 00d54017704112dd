"""The conversation itself: questions in, answers out as they are made, and the commands between them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from residency import models
from residency.chat.speaker import say
from residency.conversation import Conversation
from residency.decoding import chosen
from residency.decoding.chosen import Chosen
from residency.errors import UserError, nearest
from residency.guard import Guard, Notice
from residency.progress import Progress, Silent
from residency.recipe import Recipe
from residency.workspace import RECIPE, Run, replacing

HELP = """\
/reset          forget what was said
/system [TEXT]  set the system message and begin anew; without TEXT, show it
/compare        answer with the base model too, or no longer
/save FILE      write the conversation as messages, which `residency init --data FILE` reads
/help           this
/exit           leave (also Ctrl-D)
A line that ends in \\ goes on in the next; lines between two lines of \"\"\" are one question.
Ctrl-C stops an answer."""
COMMANDS = ("/reset", "/system", "/compare", "/save", "/help", "/exit", "/quit")
MARK = "[!]"  # before a notice of the guard


@dataclass
class Talk:
    """One sitting. `write` gets the answers' text, `note` lines about the conversation, `mark` the guard's notices."""

    run: Run
    speakers: list[Chosen]
    max_new_tokens: int
    write: Callable[[str], None]
    note: Callable[[str], None]
    compare: bool = False
    said: Conversation = field(default_factory=Conversation)
    guard: Guard | None = None
    mark: Callable[[Notice], None] = lambda notice: None

    def hear(self, text: str) -> bool:
        """Answer a question or obey a command; False where the conversation is over."""
        if not text.startswith("/"):
            self._answer(text)
            return True
        name, _, rest = text.partition(" ")
        if name in ("/exit", "/quit"):
            return False
        if name not in COMMANDS:
            self.note(f"{name} is no command. {nearest(name, COMMANDS)}".rstrip() + " /help lists them.")
        else:
            getattr(self, f"_{name[1:]}")(rest.strip())
        return True

    def _answer(self, question: str) -> None:
        tuned, first = self.speakers[0], not self.said.turns
        before, left = self.said.before(question, tuned.prompt, tuned.window, self.max_new_tokens)
        if left:
            turns = "turn leaves" if left == 1 else f"{left} turns leave"
            self.note(f"The oldest {turns} the conversation: {tuned.window:,} tokens are all the model can take in.")
            self.said.forget(left)
        shown = self._look(question, None, first, [])
        answers = []
        for one in self.speakers:
            if self.compare:
                self.write(f"[{one.name}] ")
            found = say(one, question, before, self.max_new_tokens, self.write)
            self.write("\n")
            if found.ended != "end":
                why = "you stopped it" if found.ended == "stopped" else f"the limit of {found.tokens:,} tokens"
                self.note(f"({one.name}: cut short, {why})")
            answers.append(found.text)
            if found.ended == "stopped":
                break
        shown += self._look(question, answers[0], first, shown)
        self.said.add(question, answers[0], [notice.entry() for notice in shown])

    def _look(self, question: str, answer: str | None, first: bool, shown: list[Notice]) -> list[Notice]:
        """The guard's notices that were not shown yet: of the question while its answer is waited for, then of both."""
        found = self.guard.look(question, answer, first) if self.guard else []
        new = [notice for notice in found if notice not in shown]
        for notice in new:
            self.mark(notice)
        return new

    def _reset(self, rest: str) -> None:
        self.said.forget(len(self.said.turns))
        self.note("Forgotten.")

    def _system(self, rest: str) -> None:
        if rest:
            self.said = Conversation(rest)
            self.note("A new system message: the conversation begins anew.")
        else:
            system = self.said.system or self.speakers[0].prompt.section.system
            self.note(f"System message: {system}" if system else "There is no system message.")

    def _compare(self, rest: str) -> None:
        self.compare = not self.compare
        if self.compare:
            self.note("Loading the base model.")
            self.speakers.append(chosen.base(self.run, self.speakers[0].prompt))
        else:
            del self.speakers[1:]
        self.note(f"The base model {'answers too' if self.compare else 'is quiet'}; its answers are not remembered.")

    def _save(self, rest: str) -> None:
        names = shlex.split(rest)
        if len(names) != 1:
            raise UserError("/save: no file name" if not names else f"/save {rest}: more than one", "/save FILE")
        file = Path(names[0]).expanduser()
        if file.exists():
            raise UserError(f"/save {file}: there already", fix="choose another name")
        try:
            with replacing(file) as temporary:
                temporary.write_text(json.dumps({"messages": self.said.messages()}, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            raise UserError(f"/save {file}: {error.strerror}", "a place that can be written to") from None
        self.note(f"{len(self.said.turns)} turns written to {file}.")

    def _help(self, rest: str) -> None:
        self.note(HELP)


def talk(
    folder: Path,
    lines: Iterable[str],
    write: Callable[[str], None],
    note: Callable[[str], None],
    *,
    mark: Callable[[Notice], None] | None = None,
    compare: bool = False,
    max_new_tokens: int | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> Conversation:
    """Answer each of `lines` with the run's model; returns what was said.

    `mark` gets the notices of the run's guard, which stand apart from the answers; without it they are notes.
    `overrides` change the run's recipe for this conversation, such as `guard.role=true`.

    Ctrl-C stops an answer and not the conversation. A question that can't be answered, such as one that is too long, is
    said in a line, and the conversation goes on.

    Raises:
        UserError: there is no such run, it was not trained, or the rules of its guard are wrong.
    """
    run = Run.open(folder)
    recipe = Recipe.load(run.folder / RECIPE, overrides)
    guard = Guard.of(recipe)
    prompt = models.load_prompt(recipe, progress or Silent())
    limit = max_new_tokens or recipe.evaluate.max_new_tokens
    talking = Talk(run, [chosen.tuned(run, prompt)], limit, write, note, guard=guard)
    talking.mark = mark or (lambda notice: note(f"{MARK} {notice.notice}"))
    if compare:
        talking.hear("/compare")
    for line in lines:
        try:
            if not talking.hear(line):
                break
        except UserError as error:
            note(str(error))
    return talking.said
