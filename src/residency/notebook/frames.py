"""What the stages return, as data frames of pandas, which notebooks show well; a name says which stage it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl

from residency.data import sources
from residency.notebook.bars import Shown, picture
from residency.recipe import DataSection
from residency.report import figures
from residency.workspace import Run

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

    from residency.evaluate import EvaluationReport
    from residency.train import Plan

SYSTEMS = ("base", "tuned")
TEXT = {"text-align": "left", "white-space": "pre-wrap", "vertical-align": "top", "min-width": "14em"}


def rows(source: str = "clinic", **settings: Any) -> pd.DataFrame:
    """The rows of a source with all their columns: a file, a folder, a glob, a hub id, or the built-in `clinic`.

    `settings` are others of a recipe's `data`, such as `delimiter`.

    Raises:
        UserError: the source can't be read.
    """
    table = sources.load(DataSection(source=source, **settings))
    return table.rows.drop("row").to_pandas()


def split(folder: Path, name: str) -> pd.DataFrame:
    """The rows of a prepared split (train, validation or test): question and answer, and what else was kept.

    Raises:
        UserError: the folder holds no prepared run.
    """
    return pl.read_parquet(Run.open(folder).need(f"data/{name}.parquet", "prepare")).to_pandas()


def plan(found: Plan) -> Styler:
    """What a run will take on this machine, a line a quantity, with units."""
    energy, fits = f"{found.energy:.3g} kWh", "yes" if found.fits else f"no; {found.nearest}"
    lines = [*found.forecast.rows(), ("energy", energy), ("fits here", fits)]
    return _left(pd.DataFrame(lines, columns=["", "this run"]).style.hide(axis="index"))


def curves(folder: Path) -> Shown:
    """The training and validation loss of a run that was trained.

    Raises:
        UserError: the run was not trained.
    """
    run = Run.open(folder)
    best = run.read_json("train.json", "train")["best_step"]
    metrics = run.read_jsonl("metrics.jsonl", "train")
    return picture(figures.loss(metrics, best), f"Training and validation loss; the best validation at step {best}")


def answers(found: EvaluationReport) -> Styler:
    """The held-out questions with their reference and each system's answer side by side."""
    long = found.frame().filter(pl.col("decoding") == found.decoding["name"])
    systems = list(found.systems)
    asked = long.select("row", "question", "reference").unique(maintain_order=True)
    for name in systems:
        own = long.filter(pl.col("system") == name).select("row", pl.col("text").alias(name))
        asked = asked.join(own, on="row", how="left", maintain_order="left")
    return _side_by_side(asked.drop("row").to_pandas(), systems)


def asked(given: Sequence[Mapping[str, str]]) -> Styler:
    """What `pipeline.ask` returns: each question with the answers of base and tuned side by side."""
    return _side_by_side(pd.DataFrame(list(given)), SYSTEMS)


def scores(found: EvaluationReport) -> pd.DataFrame:
    """A line a score: of each system, and tuned minus base with its 95% interval; `shown` where zero is not in it."""
    lines = {}
    for metric in found.intervals["tuned"]:
        means = {name: own[metric].mean if metric in own else None for name, own in found.intervals.items()}
        change = found.differences.get(metric)
        apart: dict[str, Any] = dict.fromkeys(("tuned minus base", "low", "high", "shown"))
        if change is not None:
            apart = {"tuned minus base": change.mean, "low": change.low, "high": change.high, "shown": change.shown}
        lines[metric] = {**means, **apart}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("score").round(3)


def faults(found: Mapping[str, Any]) -> Styler:
    """What `residency.assessments.faults` found: a line a category, the share of each system's answers that has it."""
    lines = {}
    for one in found["categories"]:
        shares = {name: _share(own) for name, own in one["systems"].items()}
        lines[one["name"]] = {**shares, "what to change": "; ".join(change["shown"] for change in one["remedies"])}
    return _left(pd.DataFrame.from_dict(lines, orient="index").style)


def _share(own: Mapping[str, Any] | None) -> str:
    if own is None:
        return "not checked"
    return f"{own['count']} of {own['of']} ({100 * own['low']:.0f} to {100 * own['high']:.0f}%)"


def _side_by_side(frame: pd.DataFrame, systems: Sequence[str]) -> Styler:
    """Texts one beside the other, wrapped and not cut, with a colour for each system."""
    colours = dict(zip(systems, ("#c2691a", "#0b7285"), strict=False))
    style = _left(frame.style.hide(axis="index")).set_properties(**TEXT)
    for name, colour in colours.items():
        style = style.set_properties(subset=[name], **{"border-left": f"3px solid {colour}"})
    return style


def _left(style: Styler) -> Styler:
    """Everything to the left, as texts are read; a data frame by itself would cut long ones, too."""
    aligned: Styler = style.set_table_styles([{"selector": "th, td", "props": [("text-align", "left")]}])
    return aligned
