"""The training dialogues nearest to a question: by words (BM25), by sentence embeddings, or by both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from residency import embeddings, environment
from residency.errors import UserError
from residency.workspace import Dialogue, Run

FUSION = 60  # of reciprocal rank fusion (Cormack et al. 2009)

Scores = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Finder:
    """A built index: `scores` gives how near each source is to each question [questions, sources], 0 for not at all.

    Seconds and peak memory (bytes, of the whole process) are those of building it.
    """

    scores: Scores
    seconds: float
    peak_bytes: int

    def nearest(self, questions: Sequence[str], count: int) -> list[list[int]]:
        """For each question the places of at most `count` sources, nearest first; of equals, the earlier one first."""
        if not questions:
            return []
        found = self.scores(questions)
        order = np.argsort(-found, axis=1, kind="stable")[:, :count]
        return [[int(place) for place in row if own[place] > 0] for row, own in zip(order.tolist(), found, strict=True)]


def sources_of(run: Run) -> list[Dialogue]:
    """The training dialogues of a run, which are all that may be put before a question.

    Raises:
        UserError: one of them is a test or validation dialogue as well: its answer would be given away.
    """
    sources = list(run.dialogues("train"))
    for split in ("test", "validation"):
        held_out = {_same(dialogue) for dialogue in run.dialogues(split)}
        leaked = next((dialogue for dialogue in sources if _same(dialogue) in held_out), None)
        if leaked is not None:
            raise UserError(
                f"run folder {run.folder}: row {leaked.row} of the training data stands in the {split} data too",
                "held-out dialogues that nothing was learnt or looked up from",
                "run `residency prepare` again",
            )
    return sources


def build(kind: str, sources: Sequence[Dialogue]) -> Finder:
    """An index of one kind over the dialogues' questions and answers.

    Raises:
        UserError: the model of sentence embeddings is not installed.
    """
    texts = [f"{dialogue.question}\n{dialogue.answer}" for dialogue in sources]
    environment.forget_peak()
    started = time.perf_counter()
    scores = {"bm25": by_words, "embeddings": by_meaning, "hybrid": by_both}[kind](texts)
    return Finder(scores, time.perf_counter() - started, environment.peak_memory())


def by_words(texts: Sequence[str]) -> Scores:
    """BM25 (Robertson et al. 1994, in Lucene's form, by bm25s). No stop words: they differ between languages."""
    import bm25s

    index = bm25s.BM25()
    index.index(_words(texts), show_progress=False)

    def scores(questions: Sequence[str]) -> np.ndarray:
        rows = [index.get_scores(words) if words else np.zeros(len(texts)) for words in _words(questions)]
        return np.array(rows)

    return scores


def by_meaning(texts: Sequence[str]) -> Scores:
    """The cosine of sentence embeddings (all-MiniLM-L6-v2)."""
    vectors = embeddings.embed(texts)
    return lambda questions: np.array(embeddings.embed(questions) @ vectors.T)


def by_both(texts: Sequence[str]) -> Scores:
    """Both rankings fused: the sum of 1 / (60 + rank), whatever the two scores' scales."""
    both = (by_words(texts), by_meaning(texts))

    def scores(questions: Sequence[str]) -> np.ndarray:
        summed: np.ndarray = sum(1 / (FUSION + _ranks(one(questions))) for one in both)  # type: ignore[assignment]
        return summed

    return scores


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Each score's rank in its row, from 1."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranks: np.ndarray = np.argsort(order, axis=1, kind="stable") + 1
    return ranks


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    found: Any = bm25s.tokenize(list(texts), stopwords=[], return_ids=False, show_progress=False)
    return list(found)


def _same(dialogue: Dialogue) -> tuple[Any, ...]:
    return dialogue.history, " ".join(dialogue.question.split()), " ".join(dialogue.answer.split())
