"""The command that asks whether fine-tuning is worth it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from residency.cli.app import Debug, Json, Out, Overrides, RecipePath, app, session, show


@app.command()
def study(
    recipe: RecipePath = None,
    out: Out = None,
    ways: Annotated[str | None, typer.Option("--ways", help="Some of the ways, with commas between.")] = None,
    questions: Annotated[int | None, typer.Option("--questions", min=1, help="Held-out questions, at most.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Whether fine-tuning is worth it: against a prompt, examples, retrieval."""
    with session(debug) as terminal:
        from residency.assessments import study as assessment
        from residency.recipe import Recipe

        settings = [*(overrides or ()), *([f"evaluate.questions={questions}"] if questions else ())]
        loaded = Recipe.load(recipe, settings)
        folder = assessment.folder_of(loaded, out)
        page = assessment.study(loaded, folder, terminal, ways=ways)
        found = json.loads((folder / "study.json").read_text("utf-8"))
        show(as_json, {"run": str(folder), "study": found}, f"{found['verdict']['headline']}\n{page}")
