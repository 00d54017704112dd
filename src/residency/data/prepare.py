"""The first stage: read, choose columns, clean, drop, split, write. Nothing is dropped or changed without a count."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from residency.data import audit, duplicates, privacy, schema, sources
from residency.data import split as splitting
from residency.data.clean import Cleaned, clean
from residency.errors import UserError
from residency.progress import Progress, Silent
from residency.prompts import Prompt
from residency.recipe import DataSection, Recipe
from residency.workspace import Run


@dataclass(frozen=True)
class DataReport:
    """What was read, what was kept, what was dropped and why. `rows_in == kept + sum(dropped.values())`."""

    source: str
    shape: str
    other_shapes: list[str]
    rows_available: int
    rows_in: int
    kept: int
    dropped: dict[str, int]
    truncated: int
    cleaned: list[Cleaned]
    redacted: dict[str, int]
    near_duplicates: int
    leaked: int
    random_split_would_leak: int
    boilerplate: list[dict[str, Any]]
    split: dict[str, int]
    tokens: dict[str, dict[str, float]]
    lengths: dict[str, list[float]]
    template: str
    sample: str


def prepare(recipe: Recipe, run: Run, prompt: Prompt, progress: Progress | None = None) -> DataReport:
    """Prepare the recipe's data and write it into the run folder as `data/`.

    Raises:
        UserError: the source, a column or a row is not as the recipe says, or nothing is left to train on.
    """
    progress = progress or Silent()
    table = sources.load(recipe.data)
    rows, available = _take(table.rows, recipe.data)
    shape = schema.recognise(rows, recipe.data)
    if shape.other:
        progress.say(f"Columns read as {shape}; also possible: {', '.join(shape.other)} (choose in the recipe's data:)")
    rows, cleaned = clean(_columns(rows, shape), recipe.data.clean)
    rows, cleaned, redacted = _redact(rows, cleaned) if recipe.data.redact else (rows, cleaned, {})
    rows, dropped = _drop(_with_context(rows), shape.question is not None)
    rows, overlong, truncated = _fit(rows, prompt, recipe)
    dropped = pl.concat([dropped, overlong, _unreadable(table)], how="diagonal")
    if rows.is_empty():
        reasons = Counter(dropped["reason"].to_list())
        raise UserError(f"data.source {table.name}: no row is left ({_counts(reasons)})", "at least one usable row")
    clusters = duplicates.clusters(rows, recipe.data.near_duplicate)
    names = splitting.split(clusters, recipe.data.test, recipe.data.validation, recipe.data.seed)
    plain = splitting.random_split(rows.height, recipe.data.test, recipe.data.validation, recipe.data.seed)
    rows = rows.with_columns(pl.Series("split", names.tolist(), dtype=pl.String))
    report = DataReport(
        source=table.name,
        shape=str(shape),
        other_shapes=list(shape.other),
        rows_available=available,
        rows_in=rows.height + dropped.height,
        kept=rows.height,
        dropped=dict(Counter(dropped["reason"].to_list())),
        truncated=truncated,
        cleaned=cleaned,
        redacted=redacted,
        near_duplicates=rows.height - len(np.unique(clusters)),
        leaked=splitting.leaked(clusters, names),
        random_split_would_leak=splitting.leaked(clusters, plain),
        boilerplate=audit.boilerplate(rows["answer"].to_list()),
        split={name: int((names == name).sum()) for name in ("train", "validation", "test")},
        tokens={
            "prompt": audit.lengths(rows["prompt_tokens"].to_list()),
            "answer": audit.lengths(rows["answer_tokens"].to_list()),
        },
        lengths=audit.histogram((rows["prompt_tokens"] + rows["answer_tokens"]).to_list()),
        template=prompt.template,
        sample=prompt.full_text(rows["question"][0], rows["answer"][0]),
    )
    _write(run, rows, dropped, report, prompt)
    return report


def _take(rows: pl.DataFrame, section: DataSection) -> tuple[pl.DataFrame, int]:
    available = rows.height
    if section.rows is None or section.rows >= available:
        return rows, available
    if section.take == "first":
        return rows.head(section.rows), available
    chosen = np.sort(np.random.default_rng(section.seed).permutation(available)[: section.rows])
    return rows[chosen], available


def _columns(rows: pl.DataFrame, shape: schema.Shape) -> pl.DataFrame:
    """The table cut to row, question, answer and context."""
    empty = pl.Series("question", [""] * rows.height, dtype=pl.String)
    columns = {
        "row": rows["row"],
        "question": schema.texts(rows, shape.question) if shape.question else empty,
        "answer": schema.texts(rows, shape.answer),
    }
    if shape.context:
        columns["context"] = schema.texts(rows, shape.context)
    return pl.DataFrame(columns)


def _redact(rows: pl.DataFrame, cleaned: list[Cleaned]) -> tuple[pl.DataFrame, list[Cleaned], dict[str, int]]:
    """The rows without personal data, and the samples of cleaning without the rows that held some."""
    after, counts = privacy.redact(rows)
    private = set(rows["row"].filter(rows.hash_rows() != after.hash_rows()))
    shown = [replace(step, samples=tuple(s for s in step.samples if s[0] not in private)) for step in cleaned]
    return after, shown, counts


def _with_context(rows: pl.DataFrame) -> pl.DataFrame:
    if "context" not in rows.columns:
        return rows
    joined = (
        pl.when(pl.col("context") == "").then("question").otherwise(pl.col("question") + "\n\n" + pl.col("context"))
    )
    return rows.with_columns(question=joined).drop("context")


def _drop(rows: pl.DataFrame, with_question: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows without empty and repeated ones, and those with the reason why they left."""
    no_question = (rows["question"].str.strip_chars() == "") & pl.Series(
        [with_question] * rows.height, dtype=pl.Boolean
    )
    no_answer = rows["answer"].str.strip_chars() == ""
    reason = (
        pl.when(no_question).then(pl.lit("empty question")).when(no_answer).then(pl.lit("empty answer")).otherwise(None)
    )
    rows = rows.with_columns(reason=reason)
    full = rows.filter(pl.col("reason").is_null())
    repeated = duplicates.exact(full)
    full = full.with_columns(reason=pl.when(repeated).then(pl.lit("exact duplicate")).otherwise(None))
    dropped = pl.concat([rows.filter(pl.col("reason").is_not_null()), full.filter(pl.col("reason").is_not_null())])
    return full.filter(pl.col("reason").is_null()).drop("reason"), dropped


def _fit(rows: pl.DataFrame, prompt: Prompt, recipe: Recipe) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The rows with their lengths in tokens, those dropped for their length, and how many will be cut."""
    prompts = [len(prompt.prompt_ids(question)) for question in rows["question"]]
    totals = [len(prompt.example(q, a)) for q, a in zip(rows["question"], rows["answer"], strict=True)]
    rows = rows.with_columns(
        prompt_tokens=pl.Series(prompts, dtype=pl.Int64),
        answer_tokens=pl.Series([t - p for t, p in zip(totals, prompts, strict=True)], dtype=pl.Int64),
    )
    limit = recipe.model.max_length
    over = rows["prompt_tokens"] + rows["answer_tokens"] > limit
    if recipe.data.overlong == "truncate":
        # A prompt that fills the limit alone leaves no answer to learn.
        hopeless = rows["prompt_tokens"] >= limit
        return (
            rows.filter(~hopeless),
            _reasoned(rows, hopeless, "prompt over max_length"),
            int((over & ~hopeless).sum()),
        )
    return rows.filter(~over), _reasoned(rows, over, "over max_length"), 0


def _reasoned(rows: pl.DataFrame, which: pl.Series, reason: str) -> pl.DataFrame:
    return rows.filter(which).with_columns(reason=pl.lit(reason))


def _unreadable(table: sources.Table) -> pl.DataFrame:
    schema_ = {"row": pl.UInt32, "question": pl.String, "answer": pl.String, "reason": pl.String}
    rows = [(number, "", why, "unreadable") for number, why in table.unreadable]
    return pl.DataFrame(rows, schema=schema_, orient="row")


def _counts(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items())


def _write(run: Run, rows: pl.DataFrame, dropped: pl.DataFrame, report: DataReport, prompt: Prompt) -> None:
    rows = rows.with_columns(
        text=pl.Series(
            [prompt.full_text(q, a) for q, a in zip(rows["question"], rows["answer"], strict=True)], dtype=pl.String
        )
    )
    for name in splitting.NAMES:
        part = rows.filter(pl.col("split") == name).drop("split")
        run.write_bytes(f"data/{name}.parquet", _parquet(part))
        run.write_jsonl(f"data/{name}.jsonl", part.select("row", "question", "answer").to_dicts())
        run.write_jsonl(f"data/{name}.text.jsonl", part.select("text").to_dicts())
    run.write_bytes("data/dropped.parquet", _parquet(dropped.select("row", "reason", "question", "answer")))
    run.write_json("data/report.json", asdict(report))


def _parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()
