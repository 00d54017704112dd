"""What in a run's data and recipe stands behind a fault: only what was counted, each with its number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from residency.evaluate.faults.cases import Case, Known, words
from residency.evaluate.faults.rules import CATEGORIES, found
from residency.recipe import Recipe
from residency.workspace import Dialogue

WORTH = 0.01  # share of the rows from which a finding stands behind a fault: leaving rows out changes the split
LOOKED_AT = 2000  # training answers that a rule is asked of, at even distances
# Rules that say something of a training answer by itself; the others need a model's answer.
OF_TRAINING = ("loop", "empty", "refuses", "leaks the template", "wrong language", "unsafe")


@dataclass(frozen=True)
class Evidence:
    """What was counted of a run: its recipe, the reports of its stages, its training answers.

    `with_fault` has for each category how many of the `looked_at` training answers have the fault, and the first rows.
    `sentences` are the stock sentences that faulty answers have, with the share of training answers that have each.
    """

    recipe: Recipe
    data: dict[str, Any]
    train: dict[str, Any]
    scores: dict[str, Any]
    looked_at: int
    with_fault: dict[str, tuple[int, list[int]]]
    answer_words: float
    reference_words: float
    sentences: tuple[dict[str, Any], ...] = ()

    def finding(self, kind: str) -> int:
        """How many rows a finding of the audit named; 0 where they are under 1% of the rows, and hardly a cause."""
        found = (one for one in self.data["findings"] if one["kind"] == kind and one["share"] >= WORTH)
        return next((int(one["count"]) for one in found), 0)

    def answer_tokens(self, percentile: str) -> float:
        """A percentile of the training answers' lengths in tokens."""
        return float(self.data["tokens"].get("answer", {}).get(percentile, 0))

    def learnt(self, kind: str) -> bool:
        """Whether the training's curves led to a finding, such as still-learning."""
        return any(one.get("kind") == kind for one in self.train.get("diagnosis", []))


def gather(
    recipe: Recipe,
    reports: dict[str, dict[str, Any]],
    training: Sequence[Dialogue],
    references: Sequence[str],
    known: Known,
) -> Evidence:
    """Ask the rules of the training answers, and count; `reports` holds those of data, train and scores."""
    some = spread(training)
    cases = [Case(row.question, row.answer, known=known) for row in some]
    with_fault = {}
    for name in OF_TRAINING:
        rows = [row.row for row, case in zip(some, cases, strict=True) if found(CATEGORIES[name], case)]
        with_fault[name] = (len(rows), rows[:5])
    return Evidence(
        recipe=recipe,
        data=reports["data"],
        train=reports["train"],
        scores=reports["scores"],
        looked_at=len(some),
        with_fault=with_fault,
        answer_words=_median([row.answer for row in some]),
        reference_words=_median(references),
    )


def spread(rows: Sequence[Dialogue], most: int = LOOKED_AT) -> list[Dialogue]:
    """At most 2,000 rows at even distances."""
    places = np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)
    return [rows[int(place)] for place in places]


def causes(category: str, evidence: Evidence) -> list[str]:
    """Sentences on what stands behind a category, the likeliest first; empty where nothing was found."""
    own = [sentence for of in _OF.get(category, ()) if (sentence := of(evidence))]
    count, rows = evidence.with_fault.get(category, (0, []))
    if count:
        where = ", ".join(str(row) for row in rows)
        share = f"{count:,} of {evidence.looked_at:,} training answers looked at have the same fault (rows {where}"
        own.append(share + (" and more)." if count > len(rows) else ")."))
    return own


def _no_end(evidence: Evidence) -> str:
    off = not evidence.recipe.prompt.end_token
    return "The end of an answer was not learnt: prompt.end_token is false." if off else ""


def _greedy(evidence: Evidence) -> str:
    plain = evidence.recipe.evaluate.decoding == "greedy"
    return "Nothing holds a repetition back: evaluate.decoding is greedy." if plain else ""


def _cut(evidence: Evidence) -> str:
    count = evidence.data["truncated"]
    return f"{count:,} rows are cut at model.max_length and learnt without an end." if count else ""


def _unfinished(evidence: Evidence) -> str:
    count = evidence.finding("truncated-answers")
    return f"{count:,} answers of the data stop in mid-sentence (truncated-answers)." if count else ""


def _limit(evidence: Evidence) -> str:
    median, limit = evidence.answer_tokens("median"), evidence.recipe.evaluate.max_new_tokens
    if evidence.answer_tokens("p95") <= limit:
        return ""
    half = "half" if median > limit else "over 5%"
    return f"Answers of the data are long: {half} of them have more than evaluate.max_new_tokens {limit:,}."


def _stock(evidence: Evidence) -> str:
    told = [f"“{item['text']}” stands in {item['share']:.0%} of the training answers" for item in evidence.sentences]
    return ". ".join(told) + "." if told else ""


def _one_question(evidence: Evidence) -> str:
    count = evidence.finding("contradicting-answers")
    return f"{count:,} rows have a question that is answered otherwise elsewhere." if count else ""


def _still_learning(evidence: Evidence) -> str:
    return "The validation loss still fell when training ended." if evidence.learnt("still-learning") else ""


def _lengths(evidence: Evidence) -> str:
    return (
        f"The median training answer has {evidence.answer_words:,.0f} words, "
        f"the median reference {evidence.reference_words:,.0f}."
    )


def _short(evidence: Evidence) -> str:
    count = evidence.finding("short-answers")
    return f"{count:,} answers of the data have three words or fewer." if count else ""


def _marked(evidence: Evidence) -> str:
    count = evidence.finding("special-tokens")
    return f"{count:,} rows have tokens of the model's own written out (special-tokens)." if count else ""


def _languages(evidence: Evidence) -> str:
    count = evidence.finding("other-languages")
    return f"{count:,} answers of the data are in another language than most." if count else ""


def _often(evidence: Evidence) -> str:
    times = evidence.train.get("summary", {}).get("epochs", evidence.recipe.train.epochs)
    over = " and validation says it was too often (over-fitting)" if evidence.learnt("over-fitting") else ""
    return f"Each training answer was gone through {times:g} times{over}." if times > 1 or over else ""


def _questions(evidence: Evidence) -> str:
    count = evidence.finding("copied-questions")
    return f"{count:,} answers of the data only repeat the question." if count else ""


_OF: dict[str, tuple[Callable[[Evidence], str], ...]] = {
    "loop": (_no_end, _greedy, _cut, _unfinished),
    "ran to the limit": (_no_end, _cut, _unfinished, _limit, _greedy),
    "empty": (_short,),
    "boilerplate": (_stock,),
    "off topic": (_one_question, _still_learning),
    "leaks the template": (_no_end, _marked),
    "wrong language": (_languages,),
    "too short": (_lengths, _short),
    "too long": (_no_end, _lengths),
    "copied": (_often, _questions),
}


def _median(texts: Sequence[str]) -> float:
    return float(np.median([len(words(text)) for text in texts])) if texts else 0.0
