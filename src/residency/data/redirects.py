"""Examples that keep a model in its role, mixed into the training rows: kind refusals, emergencies, identity.

They are built in and for a clinic. They never reach validation or test, and none is like a row that is held out.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import polars as pl

from residency.data import duplicates, keep
from residency.errors import UserError
from residency.prompts import Prompt
from residency.recipe import Recipe

FILE = "redirects.jsonl"
USUAL = 0.1  # share of the training rows where the recipe says true
ROW = 0  # rows of the source are counted from 1


@dataclass(frozen=True)
class Mixed:
    """The rows with redirects among the training rows, and what the report says of them; None where none are wanted."""

    rows: pl.DataFrame
    report: dict[str, Any] | None


def text() -> str:
    """The built-in file: one JSON object a line with set, question and answer."""
    return (resources.files("residency") / "assets" / FILE).read_text("utf-8")


def share_of(setting: bool | float) -> float:
    """The share of the training rows that redirects are to make up."""
    return USUAL if setting is True else float(setting)


def mix(rows: pl.DataFrame, asked: bool, prompt: Prompt, recipe: Recipe) -> Mixed:
    """Add redirects to the training rows, so that they make up the recipe's share of them; drawn by `data.seed`.

    Where more are wanted than there are, they come several times. Those over `model.max_length` and those that are
    near-duplicates of a held-out row are left out and counted.

    Raises:
        UserError: the rows have no questions, or no redirect is left.
    """
    share = share_of(recipe.data.redirects)
    if not share:
        return Mixed(rows, None)
    if not asked:
        raise UserError(
            f"data.redirects: {recipe.data.source} is read as texts",
            "questions and answers",
            "leave out data.redirects",
        )
    examples = pl.DataFrame([json.loads(line) for line in text().splitlines()])
    fitting = _like(rows, examples, prompt, recipe)
    others = fitting.filter(~_held_out(fitting, rows, recipe.data.near_duplicate))
    if others.is_empty():
        raise UserError(
            f"data.redirects: none of the {examples.height} fits model.max_length {recipe.model.max_length}",
            "room for about 120 tokens",
            "raise model.max_length, or leave out data.redirects",
        )
    own = rows.filter(pl.col("split") == "train").height
    wanted = max(1, round(own * share / (1 - share)))
    order = np.random.default_rng(recipe.data.seed).permutation(others.height)
    taken = others[np.resize(order, wanted)]
    report = {
        "n": wanted,
        "share": wanted / (own + wanted),
        "different": min(wanted, others.height),
        "sets": dict(sorted(Counter(taken["set"].to_list()).items())),
        "over_max_length": examples.height - fitting.height,
        "like_held_out": fitting.height - others.height,
    }
    return Mixed(pl.concat([rows, taken.select(rows.columns)]), report)


def _like(rows: pl.DataFrame, examples: pl.DataFrame, prompt: Prompt, recipe: Recipe) -> pl.DataFrame:
    """The examples that fit, with the columns of the rows and `set`; what has no meaning for them is empty."""
    missing = [name for name in ("turn", "system", "history", "rejected") if name in rows.columns]
    empty = [pl.lit(_EMPTY[name]).cast(rows.schema[name]).alias(name) for name in missing if name != "history"]
    bare = examples.with_columns(pl.lit(ROW).cast(rows.schema["row"]).alias("row"), *empty)
    if "history" in missing:
        bare = bare.with_columns(pl.Series("history", [[]] * bare.height, dtype=rows.schema["history"]))
    measured, _, _ = keep.fitting(bare, prompt, _dropping(recipe))
    others = [name for name in rows.columns if name not in measured.columns and name != "split"]
    return measured.with_columns(
        *(pl.lit(None).cast(rows.schema[name]).alias(name) for name in others), split=pl.lit("train")
    )


_EMPTY = {"turn": 0, "system": "", "rejected": ""}


def _dropping(recipe: Recipe) -> Recipe:
    """A redirect that is cut short would teach no end: it is left out, whatever becomes of the user's own rows."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"overlong": "drop"})})


def _held_out(examples: pl.DataFrame, rows: pl.DataFrame, threshold: float) -> pl.Series:
    """True for each example that is one case with a row of validation or test [examples]."""
    others = rows.filter(pl.col("split") != "train").select("question", "answer")
    together = pl.concat([others, examples.select("question", "answer")])
    clusters = duplicates.clusters(together, threshold)
    taken = np.unique(clusters[: others.height])
    return pl.Series("held_out", np.isin(clusters[others.height :], taken), dtype=pl.Boolean)
