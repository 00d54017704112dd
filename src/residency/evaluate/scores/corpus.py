"""BLEU and chrF over all answers at once, as papers give them, by sacrebleu (Post 2018, arXiv:1804.08771)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any

import numpy as np

from residency.evaluate.scores.measure import Measure


def corpus(texts: Sequence[str], references: Sequence[str]) -> dict[str, Measure]:
    """`corpus_bleu` and `corpus_chrf`, 0 to 100, from what each answer adds to the counts of shared n-grams.

    The counts and the scores are sacrebleu's own, by the methods that its significance tests are made of.
    """
    return {f"corpus_{name}": _measure(metric, texts, references) for name, metric in _metrics().items()}


def signatures() -> dict[str, str]:
    """The signature of each score that a library computes."""
    import sacrebleu

    sentence = sacrebleu.BLEU(effective_order=True)
    every = {"bleu": sentence, "chrf": sacrebleu.CHRF()} | {f"corpus_{n}": metric for n, metric in _metrics().items()}
    for metric in every.values():
        metric.corpus_score(["a"], [["a"]])  # a signature tells the number of references, which is known only then
    rouge = f"rouge-score {metadata.version('rouge-score')}, F1, stemmed"
    return {name: str(metric.get_signature()) for name, metric in every.items()} | dict.fromkeys(
        ("rouge_1", "rouge_2", "rouge_l"), rouge
    )


@lru_cache(maxsize=1)
def _metrics() -> dict[str, Any]:
    import sacrebleu

    return {"bleu": sacrebleu.BLEU(force=True), "chrf": sacrebleu.CHRF()}


def _measure(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Measure:
    parts = np.array(metric._extract_corpus_statistics(texts, [references]), dtype=float)

    def number(sums: np.ndarray) -> np.ndarray:
        return np.array([metric._compute_score_from_stats(row).score for row in sums.round().astype(int).tolist()])

    return Measure(parts, number)
