"""Which rows are learnt from: those with question and answer, once each, within the length, and as the recipe says.

Every step returns the rows that stay and those that leave, each with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from residency.data import duplicates, findings
from residency.data.dialogues import DROPPED
from residency.prompts import Before, Prompt
from residency.recipe import Recipe


def told_apart(rows: pl.DataFrame, reason: pl.Expr) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows without a reason to leave, and those with one."""
    rows = rows.with_columns(reason=reason)
    leaves = pl.col("reason").is_not_null()
    return rows.filter(~leaves).drop("reason"), rows.filter(leaves).select(*DROPPED)


def filled(rows: pl.DataFrame, with_question: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without the rows whose answer, or question where there is one, is empty."""
    no_question = (pl.col("question").str.strip_chars() == "") & with_question
    no_answer = pl.col("answer").str.strip_chars() == ""
    reason = pl.when(no_question).then(pl.lit("empty question")).when(no_answer).then(pl.lit("empty answer"))
    return told_apart(rows, reason)


def once(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without the rows that repeat an earlier one."""
    repeated = duplicates.exact(rows)
    return told_apart(rows, pl.when(repeated).then(pl.lit("exact duplicate")))


def fitting(rows: pl.DataFrame, prompt: Prompt, recipe: Recipe) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """With the lengths in tokens and without what is too long; also how many rows will be cut."""
    rows = _measured(rows, prompt)
    limit = recipe.model.max_length
    over = pl.col("prompt_tokens") + pl.col("answer_tokens") > limit
    if recipe.data.overlong == "drop":
        return *told_apart(rows, pl.when(over).then(pl.lit("over max_length"))), 0
    # A prompt that fills the limit alone leaves no answer to learn.
    hopeless = pl.col("prompt_tokens") >= limit
    rows, dropped = told_apart(rows, pl.when(hopeless).then(pl.lit("prompt over max_length")))
    return rows, dropped, rows.filter(over).height


def wanted(rows: pl.DataFrame, kinds: Sequence[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without the rows that a finding of the audit names, of the kinds that the recipe drops."""
    gone = [pl.DataFrame(schema=DROPPED)]
    for kind in kinds:
        rows, dropped = told_apart(rows, pl.when(findings.rows_of(rows, kind)).then(pl.lit(kind)))
        gone.append(dropped)
    return rows, pl.concat(gone)


def _measured(rows: pl.DataFrame, prompt: Prompt) -> pl.DataFrame:
    questions, answers = rows["question"].to_list(), rows["answer"].to_list()
    if "history" in rows.columns:
        before = [Before(s, tuple((q, a) for q, a in h)) for s, h in rows.select("system", "history").iter_rows()]
        prompts = [len(prompt.prompt_ids(q, b)) for q, b in zip(questions, before, strict=True)]
        totals = [len(prompt.example(q, a, None, b)) for q, a, b in zip(questions, answers, before, strict=True)]
    else:
        prompts, totals = prompt.lengths(questions, answers)
    return rows.with_columns(
        prompt_tokens=pl.Series(prompts, dtype=pl.Int64),
        answer_tokens=pl.Series(totals, dtype=pl.Int64) - pl.Series(prompts, dtype=pl.Int64),
    )
