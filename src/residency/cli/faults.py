"""The command that looks for faults in a run's answers, and changes the recipe against them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from residency.cli.app import Debug, Json, RunFolder, app, session, show
from residency.errors import UserError


@app.command()
def faults(
    run: RunFolder,
    only: Annotated[str | None, typer.Option("--only", help="One category, such as loop or too-short.")] = None,
    before: Annotated[Path | None, typer.Option("--before", help="An earlier run over the same questions.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Write the recipe with the changes that are proposed.")] = False,
    to: Annotated[Path | None, typer.Option("--to", help="File for --fix; NAME-fixed.yaml when left out.")] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="Also ask a model: URL#MODEL.")] = None,
    key_env: Annotated[str | None, typer.Option("--key-env", help="Variable that holds the judge's key.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What is wrong with the answers, what in the data stands behind it, and what to change."""
    with session(debug) as terminal:
        from residency.assessments import faults as assessment

        if to and not fix:
            raise UserError("--to names the file for --fix", fix="add --fix, or leave out --to")
        report = assessment.faults(run, terminal, only=only, before=before, judge=judge, key_env=key_env)
        made = assessment.fix(run, to, only) if fix else None
        value = {"run": str(run), "faults": report}
        if made:
            value["fix"] = {**asdict(made), "file": str(made.file)}
        show(as_json, value, assessment.told(report, made))
