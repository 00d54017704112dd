"""What the data is worth, before it is paid for: lengths in tokens, and sentences that recur."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np

SENTENCE_END = re.compile(r"(?<=[.!?>])\s+")
SHORTEST = 4  # words of a sentence that can be boilerplate
LEAST_ROWS = 3
LEAST_SHARE = 0.01
SHOWN = 10


def lengths(tokens: list[int]) -> dict[str, float]:
    """Percentiles of lengths in tokens; empty for no rows."""
    if not tokens:
        return {}
    values = np.array(tokens)
    low, median, high, top = np.percentile(values, [5, 50, 95, 99])
    return {
        "p5": float(low),
        "median": float(median),
        "p95": float(high),
        "p99": float(top),
        "longest": int(values.max()),
        "total": int(values.sum()),
    }


def histogram(tokens: list[int], bins: int = 24) -> dict[str, list[float]]:
    """Counts and edges of a histogram of lengths in tokens."""
    counts, edges = np.histogram(np.array(tokens), bins=bins)
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def boilerplate(answers: list[str]) -> list[dict[str, Any]]:
    """Sentences of four or more words that recur in at least three answers and 1% of them, the commonest first."""
    counts: Counter[str] = Counter()
    for answer in answers:
        # Ties keep the order of the text; a set's order would change from one process to the next.
        sentences = dict.fromkeys(sentence.strip() for sentence in SENTENCE_END.split(answer))
        counts.update(sentence for sentence in sentences if len(sentence.split()) >= SHORTEST)
    least = max(LEAST_ROWS, LEAST_SHARE * len(answers))
    common = [(text, count) for text, count in counts.most_common(SHOWN) if count >= least]
    return [{"text": text, "rows": count, "share": count / len(answers)} for text, count in common]
