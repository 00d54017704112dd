"""The first stage: read, choose columns, clean, drop, split, write. Nothing is dropped or changed without a count."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from residency.data import (
    audit,
    conversations,
    dialogues,
    duplicates,
    keep,
    privacy,
    redirects,
    rowwise,
    schema,
    sources,
    write,
)
from residency.data import split as splitting
from residency.data.clean import Cleaned
from residency.data.findings import Finding, findings
from residency.data.rowwise import Done, Rowwise
from residency.data.synthesise import Ask, Replies, Synthesised, synthesise
from residency.errors import UserError
from residency.progress import Progress, Silent
from residency.prompts import Prompt
from residency.recipe import DataSection, Recipe
from residency.sharing import Sharing
from residency.workspace import Run

SAMPLE = {"row": pl.UInt32, "question": pl.String, "answer": pl.String}  # of cleaning: before and after


@dataclass(frozen=True)
class DataReport:
    """What was read, what was kept, what was dropped and why. `rows_in == kept + sum(dropped.values())`.

    A record of several turns counts as one row for each of its answers. Redirects are none of these rows: `split`
    counts them among the training rows, and `redirects` says how many they are.
    """

    source: str
    notes: list[str]
    shape: str
    other_shapes: list[str]
    synthesised: dict[str, Any] | None
    rows_available: int
    rows_in: int
    kept: int
    dropped: dict[str, int]
    dropped_samples: list[dict[str, Any]]
    truncated: int
    cleaned: list[Cleaned]
    redacted: dict[str, int]
    near_duplicates: int
    leaked: int
    random_split_would_leak: int
    boilerplate: list[dict[str, Any]]
    findings: list[Finding]
    split: dict[str, int]
    redirects: dict[str, Any] | None
    tokens: dict[str, dict[str, float]]
    lengths: dict[str, list[float]]
    template: str
    sample: str


@dataclass(frozen=True)
class Found:
    """The source without its rows, how many it has, how they are read, and what came of each of them alone."""

    table: sources.Table
    available: int
    shape: schema.Shape
    made: Synthesised | None
    asked: bool
    done: Done
    cleaned: list[Cleaned]
    redacted: dict[str, int]


@dataclass(frozen=True)
class Kept:
    """The rows that stay, those that leave with their reasons, and how many will be cut at `max_length`."""

    rows: pl.DataFrame
    dropped: pl.DataFrame
    truncated: int


@dataclass(frozen=True)
class Parts:
    """The rows with their split, each one's cluster [rows], and how many test rows leak, as split and as by chance."""

    rows: pl.DataFrame
    clusters: np.ndarray
    leaked: int
    by_chance: int


def prepare(
    recipe: Recipe,
    run: Run,
    prompt: Prompt,
    progress: Progress | None = None,
    given: Any = None,
    *,
    ask: Ask | None = None,
    sharing: Sharing | None = None,
) -> DataReport:
    """Prepare the recipe's data, or a data frame or data set given, and write it into the run folder as `data/`.

    `ask` is the run's own model, for `data.synthesise`; `sharing` says who works on the rows, which changes nothing of
    what comes of them.

    Raises:
        UserError: the source, a column or a row is not as the recipe says, or nothing is left to train on.
        Interrupted: a process that worked on rows was killed.
    """
    progress, section, sharing = progress or Silent(), recipe.data, sharing or Sharing()
    found = _found(recipe, run, prompt, progress, given, ask=ask, sharing=sharing)
    table, made, asked = found.table, found.made, found.asked
    if any(found.redacted.values()):
        progress.say(f"Personal data replaced: {privacy.told(found.redacted)}")
    kept = _keep(found.done, rowwise.public(_unreadable(table), section), recipe, sharing)
    _some_left(kept, table.name)
    parts = _split(kept.rows, section)
    mixed = redirects.mix(parts.rows, asked, prompt, recipe)
    report = DataReport(
        source=table.name,
        notes=list(table.notes),
        shape=str(found.shape),
        other_shapes=list(found.shape.other),
        synthesised=None if made is None else _counted(made),
        rows_available=found.available,
        rows_in=kept.rows.height + kept.dropped.height,
        kept=kept.rows.height,
        dropped=dict(Counter(kept.dropped["reason"].to_list())),
        dropped_samples=_samples(kept.dropped, table),
        truncated=kept.truncated,
        cleaned=found.cleaned,
        redacted=found.redacted,
        near_duplicates=kept.rows.height - len(np.unique(parts.clusters)),
        leaked=parts.leaked,
        random_split_would_leak=parts.by_chance,
        boilerplate=audit.boilerplate(kept.rows["answer"].to_list()),
        findings=_findings(kept, parts, prompt, recipe),
        split={name: int((mixed.rows["split"] == name).sum()) for name in ("train", "validation", "test")},
        redirects=mixed.report,
        tokens=_tokens(kept.rows),
        lengths=audit.histogram((kept.rows["prompt_tokens"] + kept.rows["answer_tokens"]).to_list()),
        template=prompt.template,
        sample=write.texts(parts.rows.head(1), prompt)[0],
    )
    files = write.write_rows(run, mixed.rows, _placed(kept.dropped, table), prompt)
    about = {"files": files} | write.origin(recipe, given)
    run.write_json("data/report.json", asdict(report) | about)
    return report


def _found(
    recipe: Recipe,
    run: Run,
    prompt: Prompt,
    progress: Progress,
    given: Any,
    *,
    ask: Ask | None,
    sharing: Sharing,
) -> Found:
    """The source read, and each of its rows made ready for what needs all of them."""
    section = recipe.data
    table = sources.load(section, given)
    taken, shape = _recognised(table, recipe, progress)
    made, in_texts = _synthesise(taken, shape, section, progress, ask=ask, replies=_replies(recipe, run))
    asked = made is not None or any((shape.question, shape.messages, shape.rejected))
    rows = taken.select("row", *dict.fromkeys(shape.columns)) if made is None else made.rows
    work = Rowwise(shape if made is None else None, asked, recipe, prompt)
    done = _each(work, rows, sharing, progress)
    cleaned, redacted = _told(done, section, in_texts)
    available = table.rows.height + len(table.unreadable)
    bare = replace(table, rows=table.rows.clear())  # its rows would fill the memory while others are compared
    return Found(bare, available, shape, made, asked, done, cleaned, redacted)


def _each(work: Rowwise, rows: pl.DataFrame, sharing: Sharing, progress: Progress) -> Done:
    """The work on all rows, a shard after the other or several at once."""
    shards, found, count = rowwise.shards(rows, work.recipe.data), [], 0
    for shard, done in zip(shards, sharing.over(work, shards), strict=True):
        found.append(done)
        count += shard.height
        if len(shards) > 1:
            progress.step("Rows", count, rows.height)
    return rowwise.joined(found)


def _placed(dropped: pl.DataFrame, table: sources.Table) -> pl.DataFrame:
    """The dropped rows with where each stands in the source."""
    return dropped.with_columns(position=pl.Series([table.where(row) for row in dropped["row"]], dtype=pl.String))


def _tokens(rows: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Lengths in tokens of prompts and answers, and of rejected answers where there are any."""
    parts = [part for part in ("prompt", "answer", "rejected") if f"{part}_tokens" in rows.columns]
    return {part: audit.lengths(rows[f"{part}_tokens"].to_list()) for part in parts}


def _recognised(table: sources.Table, recipe: Recipe, progress: Progress) -> tuple[pl.DataFrame, schema.Shape]:
    """The rows that are taken, and how their columns are read; what is worth knowing of both is said."""
    for note in table.notes:
        progress.say(note)
    taken = _take(table.rows, recipe.data)
    shape = schema.recognise(taken, recipe.data)
    if recipe.data.redact:
        schema.refuse_private(shape, table.name)
    _check_objective(shape, recipe, progress)
    if shape.other:
        progress.say(f"Columns read as {shape}; also possible: {', '.join(shape.other)} (choose in the recipe's data:)")
    return taken, shape


def _check_objective(shape: schema.Shape, recipe: Recipe, progress: Progress) -> None:
    """A preference is learnt from pairs of answers; of pairs, supervised training learns the better answers alone."""
    if recipe.train.objective == "dpo" and not shape.rejected:
        raise UserError(
            f"train.objective is dpo, and data.source {recipe.data.source} is read as {shape}",
            "pairs of answers: columns prompt, chosen and rejected, or votes",
            "name them as data.question, data.answer and data.rejected, or set train.objective: sft",
        )
    if shape.rejected and recipe.train.objective == "sft":
        progress.say("Pairs of answers: train.objective sft learns the better ones alone, dpo learns to prefer them")


def _replies(recipe: Recipe, run: Run) -> Replies:
    """What a model has replied so far: another model's, or the same at another temperature, is another reply."""
    section = recipe.data.synthesise
    endpoint = section and section.endpoint and (section.endpoint, section.model, section.temperature)
    who = str(endpoint or (recipe.model.base, recipe.model.revision))
    return Replies(run.path("data/replies.jsonl"), who, privacy.redacted if recipe.data.redact else str)


def _synthesise(
    rows: pl.DataFrame,
    shape: schema.Shape,
    section: DataSection,
    progress: Progress,
    *,
    ask: Ask | None,
    replies: Replies,
) -> tuple[Synthesised | None, dict[str, int]]:
    """Question-answer pairs from texts, where the recipe asks for them, and the personal data in these texts."""
    if section.synthesise is None:
        return None, {}
    if shape.kind != "text":
        raise UserError(
            f"data.synthesise: {section.source} is read as {shape}", "texts", "name their column as data.text"
        )
    named = [pl.col("source").cast(pl.String)] if "source" in rows.columns and shape.answer != "source" else []
    documents = rows.select("row", schema.texts(rows, shape.answer).alias("text"), *named)
    counts: dict[str, int] = {}
    if section.redact:  # before a model at an endpoint sees them
        texts, counts = privacy.redact(documents.rename({"text": "answer"}), section.names)
        documents = texts.rename({"answer": "text"})
    return synthesise(documents, section.synthesise, ask, progress.step, replies), counts


def _counted(made: Synthesised) -> dict[str, Any]:
    return {"passages": made.passages, "unused": made.unused, "dropped": made.dropped, "prompt": made.prompt}


def _take(rows: pl.DataFrame, section: DataSection) -> pl.DataFrame:
    if section.rows is None or section.rows >= rows.height:
        return rows
    if section.take == "first":
        return rows.head(section.rows)
    return rows[np.sort(np.random.default_rng(section.seed).permutation(rows.height)[: section.rows])]


def _told(done: Done, section: DataSection, in_texts: dict[str, int]) -> tuple[list[Cleaned], dict[str, int]]:
    """What cleaning did, without the samples whose rows held personal data, and how much of that there was."""
    cleaned = [step.told() for step in done.cleaned]
    if not section.redact:
        return cleaned, {}
    samples = pl.DataFrame([s for step in cleaned for s in step.samples], SAMPLE, orient="row")  # cleaning took it out
    private = done.private | rowwise.changed(samples, rowwise.public(samples, section))
    shown = [replace(step, samples=tuple(s for s in step.samples if s[0] not in private)) for step in cleaned]
    kinds = {**done.redacted, **in_texts}
    return shown, {kind: done.redacted.get(kind, 0) + in_texts.get(kind, 0) for kind in kinds}


def _keep(done: Done, unreadable: pl.DataFrame, recipe: Recipe, sharing: Sharing) -> Kept:
    rows, repeated = keep.once(done.rows)
    rows, overlong, truncated = keep.within(rows, recipe)
    rows, unwanted = keep.wanted(rows, recipe.data.drop, sharing)
    gone = [*done.unread, unreadable, done.empty, repeated, overlong, unwanted]
    return Kept(rows, pl.concat(gone), truncated)


def _some_left(kept: Kept, name: str) -> None:
    if kept.rows.is_empty():
        reasons = Counter(kept.dropped["reason"].to_list())
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise UserError(f"data.source {name}: no row is left ({counts})", "at least one usable row")


def _split(rows: pl.DataFrame, section: DataSection) -> Parts:
    compared = rows
    if "turn" in rows.columns:  # "And at night?" is the same question in many conversations, and not the same case
        later = pl.col("history").list.first().list.first() if "rejected" in rows.columns else pl.lit("")
        first = pl.when(pl.col("turn") == 0).then("question").otherwise(later)
        compared = rows.with_columns(question=first)
    clusters = duplicates.clusters(compared, section.near_duplicate)
    for column, whole in (("turn", "row"), ("passage", "passage")):  # turns of a record, pairs from a passage
        if column in rows.columns:
            clusters = conversations.one_cluster_each(clusters, rows[whole].rank("dense").to_numpy())
    names = splitting.split(clusters, section.test, section.validation, section.seed)
    plain = splitting.random_split(rows.height, section.test, section.validation, section.seed)
    return Parts(
        rows.with_columns(pl.Series("split", names.tolist(), dtype=pl.String)),
        clusters,
        splitting.leaked(clusters, names),
        splitting.leaked(clusters, plain),
    )


def _findings(kept: Kept, parts: Parts, prompt: Prompt, recipe: Recipe) -> list[Finding]:
    return findings(
        kept.rows.with_columns(cluster=pl.Series(parts.clusters)),
        recipe.model.max_length,
        parts.by_chance,
        Counter(kept.dropped["reason"].to_list()),
        special=prompt.special_tokens,
        redacted=recipe.data.redact,
    )


def _unreadable(table: sources.Table) -> pl.DataFrame:
    return dialogues.dropped([(row, "unreadable", why) for row, why in table.unreadable])


def _samples(dropped: pl.DataFrame, table: sources.Table) -> list[dict[str, Any]]:
    """One row of each reason, with where it stands."""
    first = dropped.unique("reason", keep="first", maintain_order=True)
    return [
        {
            "reason": reason,
            "position": table.where(row),
            "question": question[:200],
            "answer": answer[:200],
        }
        for row, reason, question, answer in first.select("row", "reason", "question", "answer").iter_rows()
    ]
