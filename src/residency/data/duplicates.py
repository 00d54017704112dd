"""Which rows are the same case: exact repeats, and near-duplicates by their runs of three words.

Long texts are proposed as pairs by MinHash (Broder 1997), short ones by a rare run that they share (prefix filtering,
Chaudhuri et al. 2006), and the exact Jaccard similarity decides. Rows joined by a chain of near-duplicates form
one cluster, which a split never tears apart. All of it works on arrays: a quarter of a million rows take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rensa import RMinHash

from residency.data.shingles import Hashes, Ints, Shingles, ranges

PERMUTATIONS = 128
MISSED = 1e-4  # probability that MinHash does not propose a pair at the threshold, at most
DEVIATIONS = 4  # standard errors that MinHash's estimate may be under the threshold
SHORT = 12  # shingles; of short texts that begin alike, MinHash would propose every pair
SHORTEST_ANSWER = 8  # words; shorter answers ("Yes, it is safe.") are alike without being the same case
BLOCK = 1 << 17  # pairs looked at together: what bounds the memory
ROWS = 1 << 14  # texts sketched together

Pairs = tuple[Ints, Ints]


def exact(rows: pl.DataFrame) -> pl.Series:
    """True where question and answer repeat an earlier row, capitals aside."""
    key = rows.select(pl.col("question").str.to_lowercase(), pl.col("answer").str.to_lowercase())
    return ~key.select(pl.struct("question", "answer").is_first_distinct()).to_series()


def clusters(rows: pl.DataFrame, threshold: float) -> Ints:
    """A cluster number for each row [rows]: equal numbers are near-duplicates in question or in answer."""
    found = _Clusters(rows.height)
    for column, shortest in (("question", 1), ("answer", SHORTEST_ANSWER)):
        texts = Shingles.of(rows[column], shortest)
        first = texts.first_alike()
        repeats = np.flatnonzero(first != np.arange(len(first)))
        found.join(texts.rows[first[repeats]], texts.rows[repeats])
        texts = texts.only(np.setdiff1d(np.arange(len(first)), repeats))
        # Both texts of a pair are in one of the two: at the threshold their sizes differ by no more than it allows.
        short, long = texts.sizes <= SHORT, texts.sizes >= threshold * (SHORT + 1)
        _join_alike(texts.only(np.flatnonzero(short)), threshold, _sharing, found)
        _join_alike(texts.only(np.flatnonzero(long)), threshold, _sketched, found)
    return found.labels()


class _Clusters:
    """Disjoint sets of rows; the smallest row of each is its root."""

    def __init__(self, rows: int) -> None:
        self._parents = np.arange(rows)

    def labels(self) -> Ints:
        """The root of each row [rows]."""
        while (self._parents[self._parents] != self._parents).any():
            self._parents = self._parents[self._parents]
        return self._parents

    def join(self, left: Ints, right: Ints) -> None:
        """Make one cluster of each pair's clusters."""
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            first, second = sorted((self._root(one), self._root(other)))
            self._parents[second] = first

    def _root(self, row: int) -> int:
        while self._parents[row] != row:
            self._parents[row] = self._parents[self._parents[row]]
            row = int(self._parents[row])
        return row


def _join_alike(
    texts: Shingles, threshold: float, propose: Callable[[Shingles, float], Iterator[Pairs]], found: _Clusters
) -> None:
    """Join the proposed pairs that reach the threshold; those of one cluster already need no look."""
    for pair in propose(texts, threshold):
        labels, sizes = found.labels()[texts.rows], texts.sizes
        smaller, larger = np.sort(sizes[np.array(pair)], axis=0)
        open_ = (labels[pair[0]] != labels[pair[1]]) & (smaller >= threshold * larger - 1e-9)
        left, right = pair[0][open_], pair[1][open_]
        near = texts.similarity(left, right) >= threshold
        found.join(texts.rows[left[near]], texts.rows[right[near]])


def _sharing(texts: Shingles, threshold: float) -> Iterator[Pairs]:
    """Pairs that share one of their rarest shingles; any other pair differs in too many."""
    _, place, often = np.unique(texts.hashes, return_inverse=True, return_counts=True)
    text = np.repeat(np.arange(len(texts.rows)), texts.sizes)
    order = np.lexsort((texts.hashes, often[place], text))
    rank = np.arange(len(text)) - np.repeat(texts.offsets[:-1], texts.sizes)
    rare = order[rank <= texts.sizes[text] - np.ceil(threshold * texts.sizes[text] - 1e-9)]
    yield from _in_common(texts.hashes[rare], text[rare])


def _sketched(texts: Shingles, threshold: float) -> Iterator[Pairs]:
    """Pairs that MinHash proposes: equal in one of its bands, and similar enough by all its values."""
    sketches, width = _sketches(texts), _band_width(threshold)
    least = threshold - DEVIATIONS * np.sqrt(threshold * (1 - threshold) / PERMUTATIONS)
    bands = [_mixed(sketches[:, start : start + width]) for start in range(0, PERMUTATIONS - width + 1, width)]
    for number, band in enumerate(bands):
        for pair in _in_common(band, np.arange(len(band))):
            seen = np.zeros(len(pair[0]), dtype=bool)
            for earlier in bands[:number]:
                seen |= earlier[pair[0]] == earlier[pair[1]]
            left, right = pair[0][~seen], pair[1][~seen]
            near = (sketches[left] == sketches[right]).mean(axis=1) >= least
            yield left[near], right[near]


def _sketches(texts: Shingles) -> NDArray[np.uint32]:
    """MinHash values [texts, permutations]."""
    parts = [np.empty((0, PERMUTATIONS), dtype=np.uint32)]
    for start in range(0, len(texts.rows), ROWS):
        offsets = texts.offsets[start : start + ROWS + 1]
        hashes, own = texts.hashes[offsets[0] : offsets[-1]], (offsets - offsets[0]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, own, PERMUTATIONS, 0)
        parts.append(np.array(matrix.to_rows(), dtype=np.uint32))
    return np.concatenate(parts)


def _band_width(threshold: float) -> int:
    """The most values a band that still proposes a pair at the threshold, in all but `MISSED` of the cases."""
    widths = (w for w in range(16, 1, -1) if (1 - threshold**w) ** (PERMUTATIONS // w) <= MISSED)
    return next(widths, 1)


def _mixed(values: NDArray[np.uint32]) -> Hashes:
    """One hash for each row of a band [rows]."""
    key = np.zeros(len(values), dtype=np.uint64)
    for column in values.T:
        key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(32)
    return key


def _in_common(keys: Hashes, texts: Ints) -> Iterator[Pairs]:
    """Each pair of texts with an equal key, in blocks."""
    order = np.argsort(keys, kind="stable")
    keys, texts = keys[order], texts[order]
    partners = np.searchsorted(keys, keys, side="right") - np.arange(len(keys)) - 1
    places = np.flatnonzero(partners)
    blocks = np.cumsum(partners[places]) // BLOCK
    for block in np.split(places, np.flatnonzero(np.diff(blocks)) + 1):
        yield texts[np.repeat(block, partners[block])], texts[ranges(block + 1, partners[block])]
