"""Questions that stand in a document with their answers: `Q: ... A: ...`, bold ones, and lines that end in `?`."""

from __future__ import annotations

import re

from residency.data.synthesise.lines import BULLET, NUMBERED, Line, neighbours
from residency.data.synthesise.words import words

LEVEL = 7  # below the six levels of Markdown's headings
LONGEST = 40  # words of a line that is read as one question
WRAPPED = 4  # lines that a marked question may go on for

_ITEM = r"\s*(?:[-*+•]\s+|\d+[.)]\s+)?"
_MARKED = re.compile(_ITEM + r"(?:\*\*|__)?(?:Q|Question)\s*\d*\s*([:.)])\s*(?:\*\*|__)?\s*(.+)", re.IGNORECASE)
_ANSWER = re.compile(r"(?:\*\*|__)?(?<!\w)(?:A|Answer)\s*\d*\s*[:.]\s*(?:\*\*|__)?\s*", re.IGNORECASE)
_ANSWER_INSIDE = re.compile(r"(?<!\S)(?:\*\*|__)?(?:A|Answer):\s*(?:\*\*|__)?\s*")  # no full stop: "vitamin A. Is it"
_BOLD = re.compile(_ITEM + r"(\*\*|__)(.+?[?？])\s*\1\s*[:–-]?\s*(.*)")
_ASKS = re.compile(r"[?？؟][*_\"”’]*\s*$")
_CLOSED = re.compile(r"[.!?:。！？][\"'”’)\]]*$")
_SENTENCE_END = re.compile(r"[.!?。！？][\"”’)]*\s+\S|[。！？]\S")


def with_questions(lines: list[Line]) -> list[Line]:
    """The lines, each question that an answer follows being one of its own kind.

    Several questions in a row are a list of questions, and stay text.
    """
    asked = _asked(lines)
    found = []
    for line, (before, after) in zip(asked, neighbours(asked), strict=True):
        if line.kind == "question":
            listed = "question" in (before.kind, after.kind) or after.kind not in ("text", "code")
            listed = listed or bool(NUMBERED.match(line.text) and NUMBERED.match(after.text))
            found.append(Line("text", line.text) if listed else Line("question", _name(line.text), LEVEL))
        else:
            found.append(line)
    return found


def _asked(lines: list[Line]) -> list[Line]:
    """The lines with every question and its answer on lines of their own."""
    found: list[Line] = []
    rest = list(reversed(lines))
    while rest:
        line = rest.pop()
        parts = _question_and_rest(line.text, rest, found[-1] if found else None) if line.kind == "text" else None
        if parts is None:
            found.append(line)
        else:
            found += [Line("question", parts[0]), *([Line("text", parts[1])] if parts[1] else [])]
    return found


def _question_and_rest(text: str, rest: list[Line], above: Line | None) -> tuple[str, str] | None:
    """The question that a line begins with and the first line of its answer where that is at hand, or None.

    What the question takes of the lines below it is removed from `rest`, which stands upside down.
    """
    marked = _MARKED.fullmatch(text)
    if marked and (marked[1] == ":" or "?" in marked[2]):  # "Q. 10 is a code" asks nothing
        answer = _ANSWER_INSIDE.search(text, marked.start(2))
        return (text[: answer.start()].rstrip(), text[answer.end() :]) if answer else _marked(text, rest)
    bold = _BOLD.fullmatch(text)
    if bold:
        return bold[2], bold[3]
    below = _block(rest) if above is None or above.kind != "text" else []
    if below and _is_question(wrapped := " ".join([text, *below])):
        del rest[-len(below) :]
        return wrapped, ""
    begins = above is None or above.kind != "text" or bool(_CLOSED.search(above.text))
    return (text, "") if begins and _is_question(text) else None


def _marked(text: str, rest: list[Line]) -> tuple[str, str]:
    """A marked question, from all the lines it stands on, and its answer's first line where that is marked as well."""
    below = _block(rest)
    size = _goes_on_for(text, below, rest)
    del rest[len(rest) - size :]
    answer = _marked_answer(rest, 0)
    if answer is None:
        return " ".join([text, *below[:size]]), ""
    first = _ANSWER.sub("", rest[answer].text, count=1)
    del rest[answer:]
    return " ".join([text, *below[:size]]), first


def _goes_on_for(text: str, below: list[str], rest: list[Line]) -> int:
    """How many of the lines below a marked question belong to it: to `A:` where there is one, else to its `?`."""
    for size, line in enumerate(below):
        if _ANSWER.match(line):
            return size
    if _marked_answer(rest, len(below)) is not None:
        return len(below)
    return 0 if "?" in text else next((size for size, line in enumerate(below, start=1) if _ASKS.search(line)), 0)


def _block(rest: list[Line]) -> list[str]:
    """The next lines up to a blank one, none where there are more than a question is wrapped onto."""
    ahead = list(reversed(rest[-WRAPPED - 1 :]))
    size = next((n for n, line in enumerate(ahead) if line.kind != "text"), len(ahead))
    return [line.text.strip() for line in ahead[:size]] if size <= WRAPPED else []


def _marked_answer(rest: list[Line], skipped: int) -> int | None:
    """The place of the first line that is not blank, `skipped` lines aside, where it begins with `A:`."""
    place = len(rest) - 1 - skipped
    while place >= 0 and rest[place].kind == "blank":
        place -= 1
    return place if place >= 0 and rest[place].kind == "text" and _ANSWER.match(rest[place].text) else None


def _is_question(text: str) -> bool:
    """Whether a plain text is one whole question, and no item of a list."""
    name = NUMBERED.sub("", text).strip()
    one = _ASKS.search(text) and not BULLET.match(text) and not _SENTENCE_END.search(name)
    return bool(one) and len(words(name)) <= LONGEST and not name[:1].islower()


def _name(text: str) -> str:
    marked = _MARKED.fullmatch(text)
    return NUMBERED.sub("", marked[2] if marked else text).strip().removesuffix("**").removesuffix("__")
