"""What the audit says of the kept rows: each finding with its size, rows to look at, and what to put in the recipe.

Thresholds stand beside what they decide. A finding is never more than a reason to look: the rows stay, unless the
recipe names the finding in `data.drop`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import polars as pl

from residency.data.duplicates import shingles

Severity = Literal["problem", "warning", "note"]
SHOWN = 5  # rows of a finding
CUT = 200  # characters of a row that is shown
SHORT = 5  # words of an answer, at most, that is called short
COPIED = 0.8  # share of the question's words that stand in an answer hardly longer than the question
LONGER = 1.3  # times as many words as the question: an answer over this is more than a copy
CONTRADICTS = 0.1  # shingles that two answers to one question share, at most, for them to contradict
STOCK_LAST = 6  # words at an answer's end, or at its beginning, that make it stock where they recur
STOCK_SHARE = 0.05
NEAR_LIMIT = 0.9  # of max_length

CLOSED = r"""[.!?:;)\]}"'»”’>…*|`0-9%]\s*$"""
HTML = r"(?i)</?(?:p|br|div|span|a|b|i|ul|ol|li|table|tr|td|h[1-6]|strong|em)\b[^<>]*>|&(?:nbsp|amp|lt|gt|quot|#\d+);"


@dataclass(frozen=True)
class Finding:
    """Something that the rows show: how many, which for example, and what to do about it."""

    kind: str
    severity: Severity
    count: int
    share: float
    examples: list[tuple[int, str]]
    advice: str


def findings(rows: pl.DataFrame, max_length: int, leak: int) -> list[Finding]:
    """All findings in kept rows, the most severe first.

    `rows` has row, question, answer, prompt_tokens, answer_tokens and cluster. `leak` is how many test rows would have
    had a near-duplicate in training after a plain random split.
    """
    found = [_marked(rows, kind, severity, rows_of(rows, kind), advice) for kind, severity, advice in DROPPABLE]
    tokens = pl.col("prompt_tokens") + pl.col("answer_tokens")
    near = rows.select(tokens > NEAR_LIMIT * max_length).to_series()
    found += [
        _marked(rows, "near-the-limit", "note", near, "Raise model.max_length if answers of this length matter."),
        _marked(rows, "html", "warning", rows["answer"].str.contains(HTML), "Add html to data.clean."),
        _ends(rows, "stock-closings", r"((?:\S+\s+){5}\S+)\s*$", "Add stock-closings to data.clean."),
        _ends(rows, "stock-openings", r"^\s*((?:\S+\s+){5}\S+)", "Cut the opening with a pattern of your own."),
        _near_duplicates(rows, leak),
        _one_question(rows),
    ]
    order = {"problem": 0, "warning": 1, "note": 2}
    return sorted((f for f in found if f.count), key=lambda f: (order[f.severity], -f.count))


def rows_of(rows: pl.DataFrame, kind: str) -> pl.Series:
    """Which rows [rows] a finding that `data.drop` can name is about."""
    return RULES[kind](rows)


def _truncated(rows: pl.DataFrame) -> pl.Series:
    """Answers of more than a few words that stop without closing punctuation, or in dots. A list may end in a word."""
    answer = pl.col("answer").str.strip_chars()
    long = answer.str.count_matches(r"\S+") > 2 * SHORT
    dots = answer.str.contains(r"(?:\.\.\.|…)$")
    listed = answer.str.contains(r"(?:^|\n)\s*(?:[-*•]|\d+[.)])\s")
    return rows.select(long & (dots | ~(answer.str.contains(CLOSED) | listed))).to_series()


def _copied(rows: pl.DataFrame) -> pl.Series:
    """Answers that say little more than the question's own words."""
    words = rows.select(q=_words("question"), a=_words("answer"))
    shared = pl.col("q").list.set_intersection("a").list.len() / pl.col("q").list.len()
    longer = pl.col("a").list.len() > LONGER * pl.col("q").list.len()
    return words.select((pl.col("q").list.len() > 2) & (shared >= COPIED) & ~longer).to_series().fill_null(False)


def _short(rows: pl.DataFrame) -> pl.Series:
    return rows["answer"].str.count_matches(r"\S+") <= SHORT


def _contradicting(rows: pl.DataFrame) -> pl.Series:
    """Rows whose question another row answers in wholly other words."""
    plain = rows["question"].str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]+", " ").str.strip_chars()
    places = pl.DataFrame({"plain": plain}).with_row_index("place").filter(pl.col("plain") != "")
    groups = places.group_by("plain").agg("place").filter(pl.col("place").list.len() > 1)["place"].to_list()
    answers = rows["answer"]
    marked = [False] * rows.height
    for group in groups:
        sets = [shingles(answers[place]) for place in group]
        for one in range(len(group)):
            marked[group[one]] = any(
                _jaccard(sets[one], sets[other]) <= CONTRADICTS for other in range(len(group)) if other != one
            )
    return pl.Series(marked, dtype=pl.Boolean)


RULES: dict[str, Callable[[pl.DataFrame], pl.Series]] = {
    "contradicting-answers": _contradicting,
    "truncated-answers": _truncated,
    "copied-questions": _copied,
    "short-answers": _short,
}
DROPPABLE: tuple[tuple[str, Severity, str], ...] = (
    (
        "contradicting-answers",
        "warning",
        "The same question has wholly different answers: put what tells them apart into data.context, or add "
        "contradicting-answers to data.drop.",
    ),
    (
        "truncated-answers",
        "warning",
        "They stop in mid-sentence: mend the source, or add truncated-answers to data.drop.",
    ),
    ("copied-questions", "problem", "They only repeat the question: add copied-questions to data.drop."),
    ("short-answers", "note", "A model that learns these answers in a word: add short-answers to data.drop."),
)


def _marked(rows: pl.DataFrame, kind: str, severity: Severity, which: pl.Series, advice: str) -> Finding:
    some = rows.filter(which).head(SHOWN)
    examples = [
        (row, _shown(question, answer))
        for row, question, answer in some.select("row", "question", "answer").iter_rows()
    ]
    count = int(which.sum())
    return Finding(kind, severity, count, count / max(rows.height, 1), examples, advice)


def _ends(rows: pl.DataFrame, kind: str, pattern: str, advice: str) -> Finding:
    """Answers that end, or begin, in the commonest same six words, where those recur often."""
    ends = rows["answer"].str.extract(pattern).str.to_lowercase()
    counts = ends.drop_nulls().value_counts(sort=True)
    least = max(3, STOCK_SHARE * rows.height / 2)
    common = counts.filter(pl.col("count") >= least).head(20)["answer"].to_list()
    found = _marked(rows, kind, "warning", ends.is_in(common).fill_null(False), advice)
    return found if found.share >= STOCK_SHARE else Finding(kind, "note", 0, 0.0, [], advice)


def _near_duplicates(rows: pl.DataFrame, leak: int) -> Finding:
    repeated = pl.col("cluster").is_duplicated() & ~pl.col("cluster").is_first_distinct()
    which = rows.select(repeated).to_series()
    severity: Severity = "warning" if which.mean() and float(which.mean() or 0) > STOCK_SHARE else "note"  # type: ignore[arg-type]
    advice = f"Each is kept in one split with its like; a plain random split would have leaked {leak:,} into the test."
    return _marked(rows, "near-duplicates", severity, which, advice)


def _one_question(rows: pl.DataFrame) -> Finding:
    """One question that half the rows ask: the model can't tell them apart."""
    counts = rows["question"].value_counts(sort=True)
    question, count = counts.row(0) if rows.height else ("", 0)
    which = (rows["question"] == question) & (question != "") & (count > max(1, rows.height // 2))
    return _marked(rows, "one-question", "problem", which, "Name the column that holds the question in data.question.")


def _words(column: str) -> pl.Expr:
    return pl.col(column).str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+").list.unique()


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(len(one | other), 1)


def _shown(question: str, answer: str) -> str:
    text = f"{question} → {answer}" if question else answer
    return text if len(text) <= CUT else f"{text[: CUT // 2]} … {text[-CUT // 2 :]}"
