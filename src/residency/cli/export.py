"""The command that takes a model to where it is needed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from residency.cli.app import Debug, Json, RunFolder, app, session, show
from residency.errors import UserError


@app.command()
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option("--to", help="safetensors, gguf, ollama or hub.")] = "safetensors",
    weights: Annotated[str, typer.Option("--type", help="Weights of a GGUF file: f16, q8_0 or q4_k_m.")] = "f16",
    repo: Annotated[str | None, typer.Option("--repo", help="Repository on the hub, USER/NAME.")] = None,
    public: Annotated[bool, typer.Option("--public", help="A repository that everybody sees.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go to the hub.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """A run's model as a folder with its card, a GGUF file, for Ollama, or on a hub."""
    with session(debug) as terminal:
        from residency.export import KINDS, export
        from residency.models import load_prompt
        from residency.workspace import Run

        _one_of("--to", to, KINDS)
        _one_of("--type", weights, ("f16", "q8_0", "q4_k_m"))
        opened = Run.open(run)
        options: dict[str, Any] = {"weights": weights, "repo": repo, "private": not public, "dry_run": dry_run}
        with opened.working(f"residency export {run} --to {to}"):
            found = export(opened, load_prompt(opened.recipe, terminal), to, progress=terminal, **options)  # type: ignore[arg-type]
            opened.seal()
        value = {"run": str(run), "path": str(found.path), "next": found.next, **found.about}
        show(as_json, value, "\n".join([str(found.path), "", "Next:", *(f"  {line}" for line in found.next)]))


def _one_of(option: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise UserError(f"{option} {given}", f"one of {', '.join(known)}")
