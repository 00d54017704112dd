"""Commands that make a run: all stages, and each of them before the evaluation."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residency import ranks
from residency.cli.app import Debug, Fit, Json, Out, Overrides, RecipePath, app, session, show

if TYPE_CHECKING:
    from residency.recipe import Recipe
    from residency.terminal import Terminal

FromManifest = Annotated[
    Path | None,
    typer.Option(
        "--from-manifest", help="Make the run of this manifest.json again, and say whether the same came of it."
    ),
]


@app.command()
def run(
    recipe: RecipePath = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run of another recipe.")] = False,
    fit: Fit = False,
    from_manifest: FromManifest = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """All stages: prepare, train, evaluate, report."""
    with session(debug) as terminal:
        from residency import pipeline
        from residency.recipe import Recipe

        if from_manifest:
            _refuse_beside(recipe=recipe, resume=resume, overwrite=overwrite, fit=fit, set=overrides)
            _again(from_manifest, out, terminal, as_json)
            return
        loaded = Recipe.load(recipe, overrides or ())
        folder = pipeline.folder_of(loaded, out)
        page = pipeline.run(loaded, folder, terminal, resume=resume, overwrite=overwrite, fit=fit)
        show(as_json, {"run": str(folder), "report": str(page)}, str(page))


def _refuse_beside(**given: Any) -> None:
    from residency.errors import UserError

    if named := [name if name == "recipe" else f"--{name}" for name, value in given.items() if value]:
        raise UserError(f"--from-manifest beside {named[0]}", "the manifest alone, which holds the recipe, and --out")


def _again(manifest: Path, out: Path | None, terminal: Terminal, as_json: bool) -> None:
    from residency.again import again
    from residency.errors import listed

    folder, differ = again(manifest, out, terminal)
    page = folder / "report.html"
    told = f"not the same as then: {listed(differ, 4)}" if differ else "data and model are the same to the bit"
    show(as_json, {"run": str(folder), "report": str(page), "differ": differ}, f"{page}\n{told}")


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the recipe; NAME.yaml is written here.")],
    data: Annotated[str, typer.Option("--data", help="File, folder, glob or hub data set to look at.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at some data and write a commented recipe for it."""
    with session(debug) as terminal:
        from residency import pipeline

        file = pipeline.init(name, data, Path(f"{name}.yaml"), terminal)
        show(as_json, {"recipe": str(file)}, f"{file}: read it, then `residency run {file}`")


@app.command()
def prepare(
    recipe: RecipePath = None,
    out: Out = None,
    audit_only: Annotated[bool, typer.Option("--audit-only", help="Also write the report page, to look at.")] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes that share the rows; as many as pay when left out."),
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", help="Share the rows through a Ray cluster: HOST:PORT, auto or local.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Load, clean, audit and split the data."""
    with session(debug) as terminal:
        from residency import pipeline
        from residency.recipe import Recipe
        from residency.sharing import Sharing

        loaded = Recipe.load(recipe, overrides or ())
        folder = pipeline.folder_of(loaded, out)
        report = pipeline.prepare(loaded, folder, terminal, sharing=Sharing(workers, ray))
        page = pipeline.report(folder, terminal) if audit_only else folder / "data"
        show(as_json, {"run": str(folder), "data": report}, str(page))


@app.command()
def plan(
    recipe: RecipePath = None,
    out: Out = None,
    machine: Annotated[list[str] | None, typer.Option("--machine", help="Of the table, or all; repeatable.")] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="How many of each --machine.")] = 1,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="From the configuration alone; no steps.")] = False,
    fit: Fit = False,
    schedule: Annotated[bool, typer.Option("--schedule", help="Draw the learning rate over the steps.")] = False,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Draw it for this many steps.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What a run will take, here and elsewhere: memory, time, energy, cost."""
    with session(debug) as terminal:
        from residency.recipe import Recipe

        loaded = Recipe.load(recipe, overrides or ())
        if schedule or steps:
            _plan_schedule(loaded, out, steps, as_json)
        else:
            wish = {"measure": not no_measure, "machines": machine or [], "nodes": nodes, "fit": fit}
            _plan(loaded, out, terminal, wish, as_json)


def _plan(recipe: Recipe, out: Path | None, terminal: Terminal, wish: dict[str, Any], as_json: bool) -> None:
    from residency import pipeline, tables

    found = pipeline.plan(recipe, pipeline.folder_of(recipe, out), terminal, **wish)
    terminal.close()
    if as_json:
        show(True, found.as_dict(), "")
    else:
        tables.show(found.as_dict(), found.forecast.rows())


@app.command()
def train(
    recipe: RecipePath = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    find_lr: Annotated[bool, typer.Option("--find-lr", help="Only sweep the learning rate and suggest one.")] = False,
    fit: Fit = False,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune on the prepared data; under torchrun, in several processes together."""
    with session(debug, together=True) as terminal:
        from residency import pipeline
        from residency.recipe import Recipe

        ranks.refuse(fit=fit, find_lr=find_lr)
        loaded = Recipe.load(recipe, overrides or ())
        folder = pipeline.folder_of(loaded, out)
        if find_lr:
            sweep = asdict(pipeline.find_learning_rate(loaded, folder, terminal))
            show(as_json, {"run": str(folder), "learning_rate": sweep}, _suggestion(folder, sweep))
            return
        pipeline.train(loaded, folder, terminal, resume=resume, fit=fit)
        if ranks.first():
            report = json.loads((folder / "train.json").read_text("utf-8"))
            show(as_json, {"run": str(folder), "train": report}, str(folder / "model"))


def _plan_schedule(recipe: Recipe, out: Path | None, steps: int | None, as_json: bool) -> None:
    """The learning rate over the steps, drawn or as JSON."""
    from residency import pipeline
    from residency.terminal import plot

    rates = pipeline.schedule(recipe, pipeline.folder_of(recipe, out), steps)
    title = f"{recipe.train.schedule}, {len(rates):,} steps, peak {max(rates):.3g}, last {rates[-1]:.3g}"
    show(as_json, {"schedule": recipe.train.schedule, "learning_rate": rates}, f"{title}\n{plot(rates)}")


def _suggestion(folder: Path, sweep: dict[str, Any]) -> str:
    picture = f"{folder / 'lr_finder.png'} shows the sweep"
    if sweep["suggestion"] is None:
        return f"No learning rate stands out: the loss hardly fell. {picture}"
    where = f"steepest fall at {sweep['steepest']:.1e}, least loss at {sweep['lowest']:.1e}"
    return f"Suggested: --set train.learning_rate={sweep['suggestion']:.1e} ({where}). {picture}"
