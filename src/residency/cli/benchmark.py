"""The command `benchmark`: public benchmarks, and what of them a training has cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from residency.cli.app import Debug, Json, RunFolder, app, session, show


@app.command()
def benchmark(
    run: RunFolder,
    tasks: Annotated[str, typer.Option("--tasks", help="lm-eval's names, such as arc_easy,hellaswag,mmlu.")],
    data: Annotated[Path | None, typer.Option("--data", help="Folder with the questions; else from the hub.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="A quick look: only the first questions.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=0, help="Examples before each question.")] = None,
    systems: Annotated[str, typer.Option("--systems", help="Of base,tuned.")] = "base,tuned",
    precision: Annotated[str, typer.Option("--precision", help="float32, as published, or bfloat16.")] = "float32",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Public benchmarks by lm-eval, base against tuned: what was forgotten."""
    with session(debug) as terminal:
        from residency.assessments import benchmark as assessment

        asked = assessment.Asked(_names(tasks), data, limit, shots, _names(systems), precision)
        found = assessment.benchmark(run, asked, terminal)
        terminal.close()
        if as_json:
            show(True, {"run": str(run), "benchmark": found}, "")
        else:
            _print(found)


def _print(found: dict[str, Any]) -> None:
    """The results as a table on stdout, readable at 80 columns; under a difference, its 95% interval."""
    from rich.console import Console
    from rich.table import Table

    from residency.assessments.benchmark import rows

    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("task, metric", overflow="fold")
    for name in ("base", "tuned", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in rows(found):
        colour = {"forgotten": "red", "gained": "green"}.get(row["verdict"], "default")
        quick = "a quick look" if row["quick_look"] else ""
        table.add_row(
            f"{row['task']}\n[dim]{row['metric']}, {row['questions']:,} questions[/dim]",
            row["base"],
            row["tuned"],
            f"{row['difference']}\n[dim]{row['interval'].replace(' pp', '')}[/dim]",
            f"[{colour}]{row['verdict']}[/{colour}]\n{quick}",
        )
    Console(highlight=False).print(table)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
