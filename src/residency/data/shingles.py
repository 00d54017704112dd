"""Texts as sets of hashed runs of three words, in arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

SHINGLE = 3  # words
BITS = 14  # of a hash that give way to the number of its text, so that one sort puts both in order
BLOCK = 1 << BITS  # texts cut into words together

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


@dataclass(frozen=True)
class Shingles:
    """Texts' shingles: those of text i are `hashes[offsets[i] : offsets[i + 1]]`, and the text stands in row `rows[i]`.

    A shingle is three words in a row, lower-cased; a shorter text is one shingle. Each is there once, in order.
    """

    rows: Ints
    hashes: Hashes
    offsets: Ints

    @classmethod
    def of(cls, texts: pl.Series, shortest: int) -> Shingles:
        """The shingles of the texts that have as many words."""
        rows, hashes, sizes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for start in range(0, len(texts), BLOCK):
            words = texts.slice(start, BLOCK).str.to_lowercase().str.extract_all(r"\w+")
            counts = words.list.len().fill_null(0).to_numpy().astype(np.int64)
            kept = np.flatnonzero(counts >= shortest)
            text, shingle = _distinct(_runs(words[kept].explode().hash(0).to_numpy(), counts[kept]), counts[kept])
            rows.append(kept + start)
            hashes.append(shingle)
            sizes.append(np.bincount(text, minlength=len(kept)))
        return cls(np.concatenate(rows), np.concatenate(hashes), _offsets(np.concatenate(sizes)))

    @property
    def sizes(self) -> Ints:
        """How many shingles each text has [texts]."""
        return np.diff(self.offsets)

    def only(self, texts: Ints) -> Shingles:
        """The texts at these places."""
        sizes = self.sizes[texts]
        return Shingles(self.rows[texts], self.hashes[ranges(self.offsets[texts], sizes)], _offsets(sizes))

    def first_alike(self) -> Ints:
        """For each text the first one with the same shingles [texts]."""
        mixed = self.hashes * _FACTORS[0]
        sums = np.append(np.uint64(0), np.cumsum(mixed ^ (mixed >> np.uint64(32))))
        _, first, inverse = np.unique(np.diff(sums[self.offsets]), return_index=True, return_inverse=True)
        return first[inverse].astype(np.int64)

    def similarity(self, left: Ints, right: Ints) -> NDArray[np.float64]:
        """Jaccard similarity of the texts at `left` and at `right` [pairs]."""
        used, place = np.unique(np.concatenate([left, right]), return_inverse=True)
        texts = self.only(used)
        frame = pl.DataFrame({"text": np.repeat(np.arange(len(used)), texts.sizes), "hash": texts.hashes})
        sets = frame.group_by("text", maintain_order=True).agg("hash")["hash"]
        pairs = pl.DataFrame({"left": sets[place[: len(left)]], "right": sets[place[len(left) :]]})
        both = pairs.select(pl.col("left").list.set_intersection("right").list.len()).to_series().to_numpy()
        return np.asarray(both / (self.sizes[left] + self.sizes[right] - both), dtype=np.float64)


def ranges(starts: Ints, sizes: Ints) -> Ints:
    """The numbers from each start on, as many as its size, one run after the other."""
    return np.repeat(starts - _offsets(sizes)[:-1], sizes) + np.arange(sizes.sum())


def _offsets(sizes: Ints) -> Ints:
    return np.append(0, np.cumsum(sizes))


def _runs(words: Hashes, counts: Ints) -> Hashes:
    """Hashes of three words in a row within each text; what a shorter text lacks counts as nothing."""
    sizes = np.maximum(counts - SHINGLE + 1, 1)
    starts = ranges(_offsets(counts)[:-1], sizes)
    lengths = np.repeat(counts, sizes)
    padded = np.append(words, np.zeros(SHINGLE, dtype=np.uint64))
    runs = np.zeros(len(starts), dtype=np.uint64)
    for word, factor in enumerate(_FACTORS):
        runs += np.where(lengths > word, padded[starts + word], np.uint64(0)) * factor
    return runs


def _distinct(runs: Hashes, counts: Ints) -> tuple[Ints, Hashes]:
    """Each run once for each text, in order: number of the text [shingles], 50 bits of its hash [shingles]."""
    text = np.repeat(np.arange(len(counts), dtype=np.uint64), np.maximum(counts - SHINGLE + 1, 1))
    keys = np.sort((text << np.uint64(64 - BITS)) | (runs >> np.uint64(BITS)))  # one sort for both
    keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
    return (keys >> np.uint64(64 - BITS)).astype(np.int64), keys & np.uint64((1 << 64 - BITS) - 1)
