"""What stands word for word in the training data: an answer that was copied is no answer that was understood."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def longest_runs(texts: Sequence[str], sources: Iterable[str]) -> list[int]:
    """For each text, the words of its longest run that stands word for word in one of the sources.

    Exact: words are compared as they stand between white space, and no run goes over the end of a source. The sources
    are read once and not kept; time is linear in the words of both.
    """
    index = _Automaton()
    places: list[list[int]] = []
    for number, text in enumerate(texts):
        places.append([index.add(word) for word in text.split()])
        index.add(number)  # stands between two texts, and is no word: no source holds it
    matched = index.longest(source.split() for source in sources)
    return [max((matched[place] for place in own), default=0) for own in places]


class _Automaton:
    """A suffix automaton of words (Blumer et al. 1985): its paths from the start are all runs of what was added.

    A state stands for runs that end at the same places; its link leads to their longest ending that ends elsewhere too.
    """

    def __init__(self) -> None:
        self.after: list[dict[object, int]] = [{}]
        self.link = [-1]
        self.length = [0]  # of the longest run of each state
        self.last = 0

    def add(self, word: object) -> int:
        """Append a word; the state of everything up to it."""
        state = self._state({}, 0, self.length[self.last] + 1)
        before = self.last
        while before != -1 and word not in self.after[before]:
            self.after[before][word] = state
            before = self.link[before]
        if before != -1:
            self.link[state] = self._split(before, word)
        self.last = state
        return state

    def _split(self, before: int, word: object) -> int:
        """The state of the longest run of `before` and the word, which gets one of its own where it shared one."""
        old = self.after[before][word]
        if self.length[old] == self.length[before] + 1:
            return old
        own = self._state(dict(self.after[old]), self.link[old], self.length[before] + 1)
        self.link[old] = own
        while before != -1 and self.after[before].get(word) == old:
            self.after[before][word] = own
            before = self.link[before]
        return own

    def _state(self, after: dict[object, int], link: int, length: int) -> int:
        self.after.append(after)
        self.link.append(link)
        self.length.append(length)
        return len(self.length) - 1

    def longest(self, sources: Iterable[list[str]]) -> list[int]:
        """For each state, the words of the longest run that ends there and stands in one of the sources [states]."""
        found = [0] * len(self.length)
        for words in sources:
            self._read(words, found)
        order = sorted(range(1, len(found)), key=self.length.__getitem__)
        for state in reversed(order):
            if found[state] and self.link[state]:
                found[self.link[state]] = self.length[self.link[state]]
        for state in order:
            found[state] = found[state] or found[self.link[state]]
        return found

    def _read(self, words: list[str], found: list[int]) -> None:
        """Follow the words through the states, and note in `found` how long the run is that has led to each."""
        after, link, length = self.after, self.link, self.length
        known = after[0]
        state = run = 0
        for word in words:
            if word not in known:
                state = run = 0
                continue
            while word not in after[state]:
                state = link[state]
                run = length[state]
            state = after[state][word]
            run += 1
            found[state] = max(run, found[state])
