"""Which rows are learnt from: those with question and answer, once each, within the length, and as the recipe says.

Every step returns the rows that stay and those that leave, each with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

import polars as pl

from residency.data import duplicates, findings
from residency.data.dialogues import DROPPED
from residency.prompts import NOTHING, Before, Prompt
from residency.recipe import Recipe

OVER = "over max_length"
LONGEST_TOKEN = 128  # characters, at least: a tokenizer may take a whole word for one unknown token


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
    """With prompts and lengths in tokens and without what is too long; also how many rows will be cut."""
    limit = recipe.model.max_length
    over = pl.col("prompt_tokens") + pl.col("answer_tokens") > limit
    if recipe.data.overlong == "drop":
        # What is over the limit in any case is not cut into tokens: a text of some megabytes takes gigabytes.
        characters = pl.col("question").str.len_chars() + pl.col("answer").str.len_chars()
        sure = characters > limit * max(prompt.longest_token, LONGEST_TOKEN)
        rows, huge = told_apart(rows, pl.when(sure).then(pl.lit(OVER)))
        rows, dropped = told_apart(_measured(rows, prompt), pl.when(over).then(pl.lit(OVER)))
        return rows, pl.concat([huge, dropped]).sort("row", maintain_order=True), 0
    # A prompt that fills the limit alone leaves no answer to learn.
    hopeless = pl.col("prompt_tokens") >= limit
    rows, dropped = told_apart(_measured(rows, prompt), pl.when(hopeless).then(pl.lit("prompt over max_length")))
    return rows, dropped, rows.filter(over).height


def wanted(rows: pl.DataFrame, kinds: Sequence[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without the rows that a finding of the audit names, of the kinds that the recipe drops."""
    gone = [pl.DataFrame(schema=DROPPED)]
    for kind in kinds:
        rows, dropped = told_apart(rows, pl.when(findings.rows_of(rows, kind)).then(pl.lit(kind)))
        gone.append(dropped)
    return rows, pl.concat(gone)


def _measured(rows: pl.DataFrame, prompt: Prompt) -> pl.DataFrame:
    questions = rows["question"]
    before: Iterable[Before] = repeat(NOTHING)
    if "history" in rows.columns:
        before = (Before(s, tuple((q, a) for q, a in h)) for s, h in rows.select("system", "history").iter_rows())
    texts = [prompt.text(question, earlier) for question, earlier in zip(questions, before, strict=False)]
    prompts, totals = prompt.lengths(texts, rows["answer"].to_list())
    return rows.with_columns(
        prompt=pl.Series(texts, dtype=pl.String),
        prompt_tokens=pl.Series(prompts, dtype=pl.Int64),
        answer_tokens=pl.Series(totals, dtype=pl.Int64) - pl.Series(prompts, dtype=pl.Int64),
    )
