"""Commands that say what a run is worth, and whether it is whole."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from residency.cli.app import Debug, Json, Overrides, RunFolder, app, session, show
from residency.errors import UserError, listed

Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        help="Also ask this one: a run, a checkpoint, a model folder or hub id, FILE.gguf, or https://HOST/v1#MODEL. "
        "May be given several times.",
    ),
]
KeyEnv = Annotated[str, typer.Option("--key-env", help="Environment variable that holds the endpoints' key.")]


@app.command()
def evaluate(
    run: RunFolder,
    against: Against = None,
    key_env: KeyEnv = "OPENAI_API_KEY",
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Base against tuned, and against others, on the held-out questions; goes on where it was stopped."""
    with session(debug) as terminal:
        from residency import pipeline

        pipeline.evaluate(run, terminal, tuple(overrides or ()), tuple(against or ()), key_env)
        scores = json.loads((run / "evaluation" / "scores.json").read_text("utf-8"))
        show(as_json, {"run": str(run), "evaluate": scores}, str(run / "evaluation"))


@app.command()
def report(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """One self-contained HTML page of what the run holds."""
    with session(debug) as terminal:
        from residency import pipeline

        page = pipeline.report(run, terminal)
        show(as_json, {"run": str(run), "report": str(page)}, str(page))


@app.command()
def verify(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Every file of a run against the manifest's hashes; and whether what it was made from is still the same."""
    with session(debug):
        from residency import again, pipeline

        faults = pipeline.verify(run)
        if faults and not as_json:
            raise UserError(f"run folder {run}: {faults[0]}" + (f" (and {len(faults) - 1} more)" if faults[1:] else ""))
        inputs = again.looked_at(run)
        of_inputs = "it names no inputs" if inputs is None else "so is what it was made from"
        if inputs:
            of_inputs = f"what it was made from is not ({listed(inputs, 4)})"
        told = f"{run}: every file is as the manifest says; {of_inputs}"
        show(as_json, {"run": str(run), "faults": faults, "inputs": inputs}, told)
        if faults:
            raise typer.Exit(UserError.exit_code)
