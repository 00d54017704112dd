"""Tokens in, text out, as soon as it can't change any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from residency.prompts import Prompt

HALF = "\ufffd"  # what a decoder puts for bytes that are no whole character


class Pieces:
    """An answer's text piece by piece.

    What may yet turn out to be no text is held back: half a character, what may be the beginning of a stop string and,
    where `prompt` is given, what the prompt's own `decode` takes off: white space at both ends, and the text that ends
    an answer in its template. The pieces join to what `decode` gives.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), prompt: Prompt | None = None) -> None:
        self.tokenizer, self.stops, self.trim = tokenizer, tuple(stops), prompt is not None
        end = tokenizer.decode(prompt.end_ids, skip_special_tokens=True) if prompt and prompt.end_ids else ""
        self.tail = str(end).strip()
        self.stopped = False  # by a stop string; nothing comes after it
        self._ids: list[int] = []
        self._settled, self._read = 0, 0  # tokens before: not decoded again; already in the text
        self._held, self._begun = "", False

    def add(self, token: int) -> str:
        """What is certain of the text after one more token."""
        self._ids.append(token)
        return self._certain(self._new(whole=True), over=False)

    def end(self) -> str:
        """The rest of the text."""
        return self._certain(self._new(whole=False), over=True)

    def _new(self, *, whole: bool) -> str:
        """Text of the tokens that are not in it yet; empty where they end in half a character and that may be mended.

        A token's text hangs on those before it, so that some of them are decoded again.
        """
        before = self._decode(self._ids[self._settled : self._read])
        now = self._decode(self._ids[self._settled :])
        if len(now) <= len(before) or (whole and now.endswith(HALF)):
            return ""
        self._settled, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _certain(self, new: str, over: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, keep = True, min(found)
        elif over:
            keep = len(self._trimmed(text)) if self.trim else len(text)
        else:
            keep = len(text) - max((_begun(text, stop) for stop in self.stops), default=0)
            keep = min(keep, self._without_tail(text)) if self.trim else keep
        piece, self._held = text[:keep], "" if over or found else text[keep:]
        piece = piece.lstrip() if self.trim and not self._begun else piece
        self._begun = self._begun or bool(piece)
        return piece

    def _trimmed(self, text: str) -> str:
        return text.rstrip().removesuffix(self.tail).rstrip()

    def _without_tail(self, text: str) -> int:
        """How long the text is without white space and what may be, or become, the end of the template."""
        begun = _begun(text, self.tail)
        return min(len(self._trimmed(text)), len(self._trimmed(text[: len(text) - begun])))


def _begun(text: str, mark: str) -> int:
    """How many of the last characters of a text may be the beginning of `mark`."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
