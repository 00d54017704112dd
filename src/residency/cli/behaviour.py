"""The command that tries how far a model stays in its role."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from residency.cli.app import Debug, Json, RunFolder, app, session, show


@app.command()
def behaviour(
    run: RunFolder,
    sets: Annotated[
        str | None,
        typer.Option("--sets", help="Some of off-topic,emergencies,medication,self-harm,injection,identity."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N probes of each set.")] = None,
    probes: Annotated[
        list[Path] | None,
        typer.Option("--probes", help="A JSONL file of your own probes, instead of the built-in ones."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """How far base and tuned model stay in their role: off-topic questions, emergencies, injections and more."""
    with session(debug) as terminal:
        from residency.assessments.behaviour import behaviour as ask

        named = [name.strip() for name in (sets or "").split(",") if name.strip()]
        ask(run, terminal, sets=named, limit=limit, files=probes or ())
        found = run / "evaluation" / "behaviour.json"
        show(as_json, {"run": str(run), "behaviour": json.loads(found.read_text("utf-8"))}, str(found))
