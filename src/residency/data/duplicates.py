"""Which rows are the same case: exact repeats, and near-duplicates by MinHash (Broder 1997).

MinHash proposes pairs, and the exact Jaccard similarity of their three-word shingles decides. Rows that are joined by a
chain of near-duplicates form one cluster, which a split never tears apart.
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl
from rensa import RMinHash, RMinHashLSH

PERMUTATIONS = 128
BANDS = 32  # of 4 values: a pair at similarity 0.8 is proposed with probability 1 - 5e-8, one at 0.4 with 0.56
SHINGLE = 3
SHORTEST_ANSWER = 8  # words; shorter answers ("Yes, it is safe.") are alike without being the same case

_WORD = re.compile(r"\w+")


def exact(rows: pl.DataFrame) -> pl.Series:
    """True where question and answer repeat an earlier row, capitals aside."""
    key = rows.select(pl.col("question").str.to_lowercase(), pl.col("answer").str.to_lowercase())
    return ~key.select(pl.struct("question", "answer").is_first_distinct()).to_series()


def clusters(rows: pl.DataFrame, threshold: float) -> np.ndarray:
    """A cluster number for each row [rows]: equal numbers are near-duplicates in question or in answer."""
    parents = np.arange(rows.height)
    for column, shortest in (("question", 1), ("answer", SHORTEST_ANSWER)):
        for one, other in _pairs(rows[column].to_list(), threshold, shortest):
            _join(parents, one, other)
    return np.array([_root(parents, i) for i in range(rows.height)], dtype=np.int64)


def shingles(text: str) -> frozenset[str]:
    """The text's runs of three words, lower-cased; shorter texts are one shingle."""
    words = _WORD.findall(text.lower())
    return frozenset(" ".join(words[i : i + SHINGLE]) for i in range(max(len(words) - SHINGLE + 1, 1)))


def _pairs(texts: list[str], threshold: float, shortest: int) -> list[tuple[int, int]]:
    sets = [shingles(text) if len(_WORD.findall(text)) >= shortest else frozenset() for text in texts]
    index = RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=BANDS)
    pairs = []
    for place, own in enumerate(sets):
        if not own:
            continue
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=0)
        sketch.update(sorted(own))
        pairs += [(place, other) for other in index.query(sketch) if _jaccard(own, sets[other]) >= threshold]
        index.insert(place, sketch)
    return pairs


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def _root(parents: np.ndarray, node: int) -> int:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = int(parents[node])
    return node


def _join(parents: np.ndarray, one: int, other: int) -> None:
    first, second = sorted((_root(parents, one), _root(parents, other)))
    parents[second] = first
