"""The command that ranks systems by pairwise votes, and its tables."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from residency.cli.app import Debug, Json, app, session, show


@app.command()
def rank(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders with answers.")],
    votes: Annotated[Path | None, typer.Option("--votes", help="Votes of people: a JSONL file.")] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="A model that votes, as URL#MODEL.")] = None,
    key_env: Annotated[str | None, typer.Option("--key-env", help="Environment variable with its key.")] = None,
    own_temperature: Annotated[
        bool, typer.Option("--own-temperature", help="Send no temperature: some models refuse one.")
    ] = False,
    reply_tokens: Annotated[
        int, typer.Option("--reply-tokens", min=16, help="Longest reply of the judge, its thoughts included.")
    ] = 2048,
    metric: Annotated[str | None, typer.Option("--metric", help="Judge by rouge-l, chrf or bleu.")] = None,
    margin: Annotated[float, typer.Option("--margin", min=0, help="Metric points within which answers tie.")] = 1.0,
    resamples: Annotated[int, typer.Option("--resamples", min=100, help="Behind each interval.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of resamples and shuffles.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder; evaluation/ of the first RUN otherwise.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Rank systems by pairwise votes: Bradley-Terry and Elo."""
    with session(debug) as terminal:
        from residency.assessments.rank import Source, rank

        temperature = None if own_temperature else 0.0
        source = Source(votes, judge, key_env, metric, margin, temperature, reply_tokens)
        again = shlex.join(["residency", *sys.argv[1:]])
        found = rank(runs, source, terminal, out=out, resamples=resamples, seed=seed, again=again)
        terminal.close()
        show(as_json, found, _tables(found))


def _tables(found: dict[str, Any]) -> str:
    """The ratings and the meetings as text."""
    width = max(6, *(len(one["system"]) for one in found["systems"]))
    lines = [f"{'rank':>4}  {'system':<{width}}  {'rating':>6}  {'95% interval':>14}  {'Elo':>5}  {'votes':>7}"]
    for one in found["systems"]:
        rating, elo = one["rating"], one["elo"]
        between = f"{rating['low']:.0f} to {rating['high']:.0f}"
        lines.append(
            f"{one['rank']:>4}  {one['system']:<{width}}  {rating['value']:>6.0f}  {between:>14}  "
            f"{elo['value']:>5.0f}  {one['votes']:>7,}"
        )
    lines += ["", *(_meeting(pair) for pair in found["pairs"] if pair["share"])]
    return "\n".join([*lines, *found["notes"]])


def _meeting(pair: dict[str, Any]) -> str:
    share = pair["share"]
    return (
        f"{pair['a']} against {pair['b']}: {pair['wins']:,} won, {pair['ties']:,} tied, {pair['losses']:,} lost; "
        f"{100 * share['value']:.0f}% ({100 * share['low']:.0f} to {100 * share['high']:.0f}%)"
    )
