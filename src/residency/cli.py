"""The command `residency`: Typer commands, nothing else. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residency.errors import Interrupted, UserError

if TYPE_CHECKING:
    from residency.recipe import Recipe
    from residency.terminal import Terminal

app = typer.Typer(
    help="Turn a general language model into a specialist on your own dialogues, and prove that it became one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path | None, typer.Argument(help="Recipe, a YAML file; the built-in doctor when left out.")]
RunFolder = Annotated[Path, typer.Argument(help="Run folder, such as runs/doctor.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; runs/NAME when left out.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override, such as train.epochs=3.")]
Fit = Annotated[bool, typer.Option("--fit", help="Where memory is short, take the nearest setting that fits.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def run(
    recipe: RecipePath = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run of another recipe.")] = False,
    fit: Fit = False,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """All stages: prepare, train, evaluate, report."""
    with _session(debug) as terminal:
        from residency import pipeline
        from residency.recipe import Recipe

        loaded = Recipe.load(recipe, overrides or ())
        folder = pipeline.folder_of(loaded, out)
        page = pipeline.run(loaded, folder, terminal, resume=resume, overwrite=overwrite, fit=fit)
        _print(as_json, {"run": str(folder), "report": str(page)}, str(page))


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the recipe; NAME.yaml is written here.")],
    data: Annotated[str, typer.Option("--data", help="File, folder, glob or hub data set to look at.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at some data and write a commented recipe for it."""
    with _session(debug) as terminal:
        from residency import pipeline

        file = pipeline.init(name, data, Path(f"{name}.yaml"), terminal)
        _print(as_json, {"recipe": str(file)}, f"{file}: read it, then `residency run {file}`")


@app.command()
def prepare(
    recipe: RecipePath = None,
    out: Out = None,
    audit_only: Annotated[bool, typer.Option("--audit-only", help="Also write the report page, to look at.")] = False,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Load, clean, audit and split the data."""
    with _session(debug) as terminal:
        from residency import pipeline
        from residency.recipe import Recipe

        loaded = Recipe.load(recipe, overrides or ())
        folder = pipeline.folder_of(loaded, out)
        report = pipeline.prepare(loaded, folder, terminal)
        page = pipeline.report(folder, terminal) if audit_only else folder / "data"
        _print(as_json, {"run": str(folder), "data": report}, str(page))


@app.command()
def plan(
    recipe: RecipePath = None,
    out: Out = None,
    machine: Annotated[list[str] | None, typer.Option("--machine", help="Of the table, or all; repeatable.")] = None,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="From the configuration alone; no steps.")] = False,
    fit: Fit = False,
    schedule: Annotated[bool, typer.Option("--schedule", help="Draw the learning rate over the steps.")] = False,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Draw it for this many steps.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What a run will take, here and elsewhere: memory, time, energy, cost."""
    with _session(debug) as terminal:
        from residency.recipe import Recipe

        loaded = Recipe.load(recipe, overrides or ())
        if schedule or steps:
            _plan_schedule(loaded, out, steps, as_json)
        else:
            _plan(loaded, out, terminal, not no_measure, machine or [], fit, as_json)


def _plan(
    recipe: Recipe, out: Path | None, terminal: Terminal, measure: bool, machines: list[str], fit: bool, as_json: bool
) -> None:
    from residency import pipeline, tables

    folder = pipeline.folder_of(recipe, out)
    found = pipeline.plan(recipe, folder, terminal, measure=measure, machines=machines, fit=fit)
    terminal.close()
    if as_json:
        _print(True, found.as_dict(), "")
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
    """Fine-tune on the prepared data."""
    with _session(debug) as terminal:
        from residency import pipeline
        from residency.recipe import Recipe

        loaded = Recipe.load(recipe, overrides or ())
        folder = pipeline.folder_of(loaded, out)
        if find_lr:
            sweep = asdict(pipeline.find_learning_rate(loaded, folder, terminal))
            _print(as_json, {"run": str(folder), "learning_rate": sweep}, _suggestion(folder, sweep))
            return
        pipeline.train(loaded, folder, terminal, resume=resume, fit=fit)
        report = json.loads((folder / "train.json").read_text("utf-8"))
        _print(as_json, {"run": str(folder), "train": report}, str(folder / "model"))


@app.command()
def evaluate(run: RunFolder, overrides: Overrides = None, as_json: Json = False, debug: Debug = False) -> None:
    """Base against tuned on the held-out questions."""
    with _session(debug) as terminal:
        from residency import pipeline

        pipeline.evaluate(run, terminal, tuple(overrides or ()))
        scores = json.loads((run / "evaluation" / "scores.json").read_text("utf-8"))
        _print(as_json, {"run": str(run), "evaluate": scores}, str(run / "evaluation"))


@app.command()
def report(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """One self-contained HTML page of what the run holds."""
    with _session(debug) as terminal:
        from residency import pipeline

        page = pipeline.report(run, terminal)
        _print(as_json, {"run": str(run), "report": str(page)}, str(page))


@app.command()
def verify(run: RunFolder, as_json: Json = False, debug: Debug = False) -> None:
    """Every file of a run against the manifest's hashes."""
    with _session(debug):
        from residency import pipeline

        faults = pipeline.verify(run)
        if faults and not as_json:
            raise UserError(f"run folder {run}: {faults[0]}" + (f" (and {len(faults) - 1} more)" if faults[1:] else ""))
        _print(as_json, {"run": str(run), "faults": faults}, f"{run}: every file is as the manifest says")
        if faults:
            raise typer.Exit(UserError.exit_code)


def main() -> None:
    """Entry point of the console command."""
    app()


def _plan_schedule(recipe: Recipe, out: Path | None, steps: int | None, as_json: bool) -> None:
    """The learning rate over the steps, drawn or as JSON."""
    from residency import pipeline
    from residency.terminal import plot

    rates = pipeline.schedule(recipe, pipeline.folder_of(recipe, out), steps)
    title = f"{recipe.train.schedule}, {len(rates):,} steps, peak {max(rates):.3g}, last {rates[-1]:.3g}"
    _print(as_json, {"schedule": recipe.train.schedule, "learning_rate": rates}, f"{title}\n{plot(rates)}")


def _suggestion(folder: Path, sweep: dict[str, Any]) -> str:
    picture = f"{folder / 'lr_finder.png'} shows the sweep"
    if sweep["suggestion"] is None:
        return f"No learning rate stands out: the loss hardly fell. {picture}"
    where = f"steepest fall at {sweep['steepest']:.1e}, least loss at {sweep['lowest']:.1e}"
    return f"Suggested: --set train.learning_rate={sweep['suggestion']:.1e} ({where}). {picture}"


def _print(as_json: bool, value: dict[str, Any], text: str) -> None:
    print(json.dumps(value, ensure_ascii=False) if as_json else text)


@contextmanager
def _session(debug: bool) -> Iterator[Terminal]:
    """A command's work: progress on stderr, and every error as one line with its exit code."""
    from rich.console import Console

    from residency.terminal import Terminal

    terminal = Terminal(Console(stderr=True, highlight=False))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield terminal
    except typer.Exit:
        raise
    except (UserError, Interrupted) as error:
        _fail(terminal, str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        _fail(terminal, "stopped", Interrupted.exit_code, debug)
    except Exception as error:
        reason = " ".join(str(error).split())
        advice = "" if debug else " (a fault of residency; --debug shows where)"
        _fail(terminal, f"{type(error).__name__}: {reason}{advice}", 1, debug)
    finally:
        terminal.close()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(terminal: Terminal, message: str, code: int, debug: bool) -> None:
    terminal.close()
    if debug:
        traceback.print_exc()
    print(f"residency: {message}", file=sys.stderr)
    raise typer.Exit(code)
