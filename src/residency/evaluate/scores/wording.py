"""How answers are worded: SQuAD's comparison of short answers, variety of words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> list[str]:
    """The words of a text as SQuAD compares them: lower-cased, without punctuation and articles (arXiv:1606.05250)."""
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def exact_match(answer: str, reference: str) -> float:
    """1 where the answer's words are the reference's, both normalised; else 0."""
    return float(normalised(answer) == normalised(reference))


def token_f1(answer: str, reference: str) -> float:
    """The harmonic mean of precision and recall of the normalised words that both share, from 0 to 1.

    Where either has none: 1 if both have none, else 0 (SQuAD 2.0, arXiv:1806.03822).
    """
    given, wanted = normalised(answer), normalised(reference)
    if not given or not wanted:
        return float(given == wanted)
    shared = (Counter(given) & Counter(wanted)).total()
    return 2 * shared / (len(given) + len(wanted))


def distinct(texts: Sequence[str], size: int) -> list[float]:
    """What each text adds to distinct-n, whose value over all texts is the mean of what comes back.

    Distinct-n is the number of different runs of `size` words over that of all (Li et al. 2016, arXiv:1510.03055), here
    of lower-cased words between white space, within a text. It is no mean over texts: what comes back are jackknife
    pseudo-values (Tukey 1958), moved so that their mean is the value. Resampling them gives the interval; resampling
    the texts themselves would not, since a text that is drawn twice has nothing new the second time. All nan where no
    text has a run.
    """
    runs = [_runs(text, size) for text in texts]
    total, all_runs = sum(map(len, runs)), Counter(run for own in runs for run in set(own))
    if not total:
        return [float("nan")] * len(texts)
    value = len(all_runs) / total
    alone = np.array([sum(all_runs[run] == 1 for run in set(own)) for own in runs])
    rest = np.maximum(total - np.array([len(own) for own in runs]), 1)
    pseudo = value - (len(runs) - 1) * ((len(all_runs) - alone) / rest - value)
    found: list[float] = (pseudo - pseudo.mean() + value).tolist()
    return found


def _runs(text: str, size: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]
