"""What the commands share: the application, options, a session with its errors, and the two forms of output."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residency import ranks
from residency.errors import Interrupted, UserError

if TYPE_CHECKING:
    from residency.terminal import Terminal

app = typer.Typer(
    help="Turn a general language model into a specialist on your own dialogues, and prove that it became one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[
    Path | None, typer.Argument(help="Recipe: a YAML file, or doctor (when left out), support, legal, code.")
]
RunFolder = Annotated[Path, typer.Argument(help="Run folder, such as runs/doctor.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; runs/NAME when left out.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override, such as train.epochs=3.")]
Fit = Annotated[bool, typer.Option("--fit", help="Where memory is short, take the nearest setting that fits.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """Entry point of the console command."""
    app()


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"residency {version('residency')}")
    except PackageNotFoundError:  # imported from a folder that was never installed
        print("residency, not installed")
    raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """What may be asked without a command."""


def show(as_json: bool, value: dict[str, Any], text: str) -> None:
    """A command's result on stdout: as one JSON object for programs, or a line for people; once, of several ranks."""
    if ranks.first():
        print(json.dumps(value, ensure_ascii=False) if as_json else text)


@contextmanager
def session(debug: bool, *, together: bool = False) -> Iterator[Terminal]:
    """A command's work: progress on stderr, and every error as one line with its exit code.

    `together`: it may be one of several processes that torchrun started; any other command is refused there.
    """
    from rich.console import Console

    from residency.terminal import Terminal

    terminal = Terminal(Console(stderr=True, highlight=False, quiet=not ranks.first()))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if ranks.world() > 1 and not together:
            started = f"started as one of {ranks.world()} processes"
            raise UserError(started, "one process", "torchrun is for `residency train` alone")
        yield terminal
        ranks.leave()
    except typer.Exit:
        raise
    except (UserError, Interrupted) as error:
        _fail(terminal, str(error) if ranks.speaks_of_errors() else "", error.exit_code, debug)
    except KeyboardInterrupt:
        _fail(terminal, "stopped" if ranks.first() else "", Interrupted.exit_code, debug)
    except Exception as error:
        reason = " ".join(str(error).split())
        advice = "" if debug else " (a fault of residency; --debug shows where)"
        _fail(terminal, f"{type(error).__name__}: {reason}{advice}", 1, debug)
    finally:
        terminal.close()
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(terminal: Terminal, message: str, code: int, debug: bool) -> None:
    terminal.close()
    if debug:
        traceback.print_exc()
    if message:
        where = "" if ranks.first() else f" (rank {ranks.rank()})"
        print(f"residency{where}: {message}", file=sys.stderr)
    raise typer.Exit(code)
