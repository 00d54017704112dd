"""Which rows are learnt from: those with question and answer, once each, within the length, and as the recipe says.

Every step returns the rows that stay and those that leave, each with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from residency import languages
from residency.data import duplicates, findings
from residency.data.dialogues import DROPPED
from residency.prompts import Before, Prompt
from residency.recipe import Recipe
from residency.sharing import Sharing

OVER = "over max_length"
TOLD = 4096  # answers whose language is told at a time
LONGEST_TOKEN = 128  # characters, at least: a tokenizer may take a whole word for one unknown token


def told_apart(rows: pl.DataFrame, reason: pl.Expr) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows without a reason to leave, and those with one."""
    rows = rows.with_columns(reason=reason)
    leaves = pl.col("reason").is_not_null()
    return rows.filter(~leaves).drop("reason"), rows.filter(leaves).select(*DROPPED)


def filled(rows: pl.DataFrame, with_question: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without the rows whose answers, or question where there is one, are empty, and pairs of twice the same answer."""
    no_question = (pl.col("question").str.strip_chars() == "") & with_question
    no_answer = pl.col("answer").str.strip_chars() == ""
    reason = pl.when(no_question).then(pl.lit("empty question")).when(no_answer).then(pl.lit("empty answer"))
    if "rejected" in rows.columns:
        other = pl.col("rejected").str.strip_chars()
        reason = reason.when(other == "").then(pl.lit("empty rejected answer"))
        reason = reason.when(other == pl.col("answer").str.strip_chars()).then(pl.lit("chosen equals rejected"))
    return told_apart(rows, reason)


def once(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without the rows that repeat an earlier one."""
    repeated = duplicates.exact(rows)
    return told_apart(rows, pl.when(repeated).then(pl.lit("exact duplicate")))


def fitting(rows: pl.DataFrame, prompt: Prompt, recipe: Recipe) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """With prompts and lengths in tokens and without what is too long; also how many rows will be cut."""
    return within(measured(rows, prompt, recipe), recipe)


def measured(rows: pl.DataFrame, prompt: Prompt, recipe: Recipe) -> pl.DataFrame:
    """With prompts and lengths in tokens, null where a row is over the limit by its characters alone.

    Such a row is not cut into tokens: a text of some megabytes takes gigabytes.
    """
    if recipe.data.overlong != "drop":
        return _measured(rows, prompt)
    longest = pl.max_horizontal(pl.col(name).str.len_chars() for name in _answers(rows))
    characters = recipe.model.max_length * max(prompt.longest_token, LONGEST_TOKEN)
    sure = pl.col("question").str.len_chars() + longest > characters
    rows = rows.with_row_index("place")
    huge = rows.filter(sure)
    counted = _measured(rows.filter(~sure), prompt)
    return pl.concat([counted, huge], how="diagonal").sort("place").drop("place")


def within(rows: pl.DataFrame, recipe: Recipe) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Of rows that are measured those that are not too long; also how many will be cut."""
    limit = recipe.model.max_length
    longest = pl.max_horizontal(f"{name}_tokens" for name in _answers(rows))
    over = pl.col("prompt_tokens") + longest > limit
    if recipe.data.overlong == "drop":
        rows, huge = told_apart(rows, pl.when(pl.col("prompt_tokens").is_null()).then(pl.lit(OVER)))
        rows, dropped = told_apart(rows, pl.when(over).then(pl.lit(OVER)))
        return rows, pl.concat([huge, dropped]).sort("row", maintain_order=True), 0
    # A prompt that fills the limit alone leaves no answer to learn.
    hopeless = pl.col("prompt_tokens") >= limit
    rows, dropped = told_apart(rows, pl.when(hopeless).then(pl.lit("prompt over max_length")))
    return rows, dropped, rows.filter(over).height


def wanted(rows: pl.DataFrame, kinds: Sequence[str], sharing: Sharing) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without the rows that a finding of the audit names, of the kinds that the recipe drops."""
    gone = [pl.DataFrame(schema=DROPPED)]
    for kind in kinds:
        named = _apart(rows, sharing) if kind == "other-languages" else findings.rows_of(rows, kind)
        rows, dropped = told_apart(rows, pl.when(named).then(pl.lit(kind)))
        gone.append(dropped)
    return rows, pl.concat(gone)


def _apart(rows: pl.DataFrame, sharing: Sharing) -> pl.Series:
    """What the finding other-languages names; a third of a millisecond a row, which is most of a prepare."""
    some = [rows.select("answer").slice(start, TOLD) for start in range(0, max(1, rows.height), TOLD)]
    return pl.concat(list(sharing.over(languages.Apart.of(rows), some)))


def _answers(rows: pl.DataFrame) -> list[str]:
    return [name for name in ("answer", "rejected") if name in rows.columns]


def _measured(rows: pl.DataFrame, prompt: Prompt) -> pl.DataFrame:
    texts = prompt.texts(rows["question"]) if "history" not in rows.columns else _in_conversation(rows, prompt)
    found = {"prompt": pl.Series(texts, dtype=pl.String)}
    for name in _answers(rows):
        prompts, totals = prompt.lengths(texts, rows[name].to_list())
        found["prompt_tokens"] = pl.Series(prompts, dtype=pl.Int64)
        found[f"{name}_tokens"] = pl.Series(totals, dtype=pl.Int64) - found["prompt_tokens"]
    return rows.with_columns(**found)


def _in_conversation(rows: pl.DataFrame, prompt: Prompt) -> list[str]:
    told = rows.select("question", "system", "history").iter_rows()
    return [prompt.text(q, Before(system, tuple((a, b) for a, b in history))) for q, system, history in told]
