"""What an evaluation leaves for programs and people: a row for each answer, and a table of all systems side by side."""

from __future__ import annotations

import html
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from residency.evaluate.scores import score
from residency.evaluate.systems import Given
from residency.workspace import Run, systems_in

if TYPE_CHECKING:
    import polars

DASH = "–"


def entry(given: Given) -> dict[str, Any]:
    """An answer as `answers.jsonl` has it; times in seconds."""
    speed = given.tokens_per_second
    return {
        "text": given.text,
        "tokens": given.tokens,
        "stopped": given.stopped,
        "loop": score.loops(given.text),
        "stop_reason": given.stop_reason,
        "first_token_seconds": round(given.first_token_seconds, 4),
        "seconds": round(given.seconds, 4),
        "tokens_per_second": None if speed is None else round(speed, 2),
    }


def speed(given: Sequence[Given], tokens_per_second: float) -> dict[str, Any]:
    """How fast a system answered: medians in seconds, tokens of all answers over the time of all, why they ended."""
    return {
        "first_token_seconds": median(own.first_token_seconds for own in given) if given else 0.0,
        "seconds": median(own.seconds for own in given) if given else 0.0,
        "tokens_per_second": tokens_per_second,
        "tokens": sum(own.tokens for own in given),
        "stop_reasons": dict(Counter(own.stop_reason for own in given)),
    }


def notes(given: Sequence[Given]) -> list[str]:
    """What an endpoint's answers say of how they were measured."""
    found = []
    if any(own.counted_by == "the run's tokenizer" for own in given):
        found.append("tokens counted by the run's tokenizer: the endpoint does not say how many it wrote")
    elif any(own.counted_by == "the endpoint" for own in given):
        found.append("tokens as the endpoint counts them")
    if not all(own.streamed for own in given):
        found.append("does not stream: its time to the first token is that of the whole answer")
    return found


def frame(rows: Sequence[Mapping[str, Any]]) -> polars.DataFrame:
    """A row for each answer of each system, as a data frame of polars."""
    import polars as pl

    kinds = {bool: pl.Boolean, int: pl.Int64, float: pl.Float64, str: pl.String}
    names = {name: None for row in rows for name in row}
    schema = {
        name: next((kinds[type(row[name])] for row in rows if type(row.get(name)) in kinds), pl.Float64)
        for name in names
    }
    return pl.DataFrame([{name: row.get(name) for name in names} for row in rows], schema=schema, strict=False)


def write(run: Run, wide: list[dict[str, Any]], long: polars.DataFrame, scores: dict[str, Any]) -> None:
    """`answers.jsonl` (a row a question), `answers.parquet` (a row an answer), `table.md`, `table.html`."""
    run.write_jsonl("evaluation/answers.jsonl", wide)
    buffer = io.BytesIO()
    long.write_parquet(buffer)
    run.write_bytes("evaluation/answers.parquet", buffer.getvalue())
    run.write_text("evaluation/table.md", markdown(wide, scores))
    run.write_text("evaluation/table.html", page(wide, scores))


def score_table(scores: Mapping[str, Any]) -> list[list[str]]:
    """Names of the systems, then a row for each score with its 95% interval, then differences, then speed."""
    systems = list(scores["systems"])
    rows = [["", *systems]]
    for metric in {name: None for own in scores["intervals"].values() for name in own}:
        rows.append([metric, *(_interval(scores["intervals"][name].get(metric)) for name in systems)])
    for metric in scores["differences"]:
        others = (
            _interval(scores["others"][name]["tuned_minus"].get(metric), signed=True)
            if name in scores["others"]
            else ""
            for name in systems[2:]
        )
        first = [_interval(scores["differences"][metric], signed=True), ""]
        rows.append([f"{metric}: tuned minus this one", *first, *others])
    for label, name, digits in (
        ("seconds to the first token, median", "first_token_seconds", 3),
        ("seconds an answer, median", "seconds", 2),
        ("tokens a second, all answers", "tokens_per_second", 1),
    ):
        rows.append([label, *(f"{scores['speeds'][system][name]:.{digits}f}" for system in systems)])
    reasons = (", ".join(f"{n} {why}" for why, n in scores["speeds"][s]["stop_reasons"].items()) for s in systems)
    rows.append(["why answers ended", *reasons])
    return rows


def remarks(scores: Mapping[str, Any]) -> list[str]:
    """How the numbers came about, a sentence each."""
    found = [
        f"{scores['questions']} held-out questions, the same to all; decoding: {scores['decoding']['name']}.",
        "Scores are means with 95% intervals by bootstrap over the questions; a difference is paired, and none is "
        "shown where its interval includes zero. The more systems, the likelier that one interval of many misses.",
        "A model on this machine answers many questions at once, so that each waits for others; an endpoint is asked "
        "one question at a time. Times are in seconds from the question.",
    ]
    return found + [f"{name}: {note}." for name, about in scores["about"].items() for note in about["notes"]]


def markdown(wide: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> str:
    """Scores and answers as tables in GitHub's Markdown; nothing in an answer is taken for markup."""
    parts = [f"# {len(scores['systems'])} systems, {scores['questions']} questions", ""]
    parts += [f"* {_plain(remark)}" for remark in remarks(scores)]
    parts += ["", *_lines(score_table(scores)), "", "## Answers", "", *_lines(answer_table(wide, scores))]
    return "\n".join(parts) + "\n"


def answer_table(wide: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> list[list[str]]:
    """A row for each question: it, the reference, and each system's answer with its numbers in a last line."""
    systems = list(scores["systems"])
    return [
        ["question", "reference", *systems],
        *([row["question"], row["reference"], *(_said(cell(row, name)) for name in systems)] for row in wide),
    ]


def cell(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A system's answer in a row of `answers.jsonl`."""
    return systems_in(dict(row))[name]


def page(wide: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> str:
    """The same as one HTML file that needs nothing beside it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("residency.evaluate", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title = f"{len(scores['systems'])} systems, {scores['questions']} questions"
    tables = [("Scores", score_table(scores)), ("Answers", answer_table(wide, scores))]
    return environment.get_template("table.html").render(title=title, remarks=remarks(scores), tables=tables)


def _said(own: Mapping[str, Any]) -> str:
    rate = DASH if own["tokens_per_second"] is None else f"{own['tokens_per_second']:.1f}"
    numbers = f"{own['tokens']} tokens, {own['first_token_seconds']:.2f} s to the first, {rate} a second"
    return f"{own['text'] or '(nothing)'}\n[{numbers}; {own['stop_reason']}]"


def _interval(found: Mapping[str, float] | None, signed: bool = False) -> str:
    if found is None:
        return DASH
    mean, low, high = (_number(found[name], signed) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _number(value: float, signed: bool) -> str:
    text = f"{value:{'+' if signed else ''}.3f}"
    return text if float(text) else text.lstrip("+-")  # no difference has no sign


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    written = ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    return [*written[:1], "|" + " --- |" * len(rows[0]), *written[1:]]


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, in one line of a table."""
    escaped = re.sub(r"([\\`*_\[\]~|#!:])", r"\\\1", html.escape(text, quote=False))
    return re.sub(r"\r\n|[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "<br>", escaped)
