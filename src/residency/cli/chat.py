"""The command that talks."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from residency.cli.app import Debug, RunFolder, app, session


@app.command()
def chat(
    run: RunFolder,
    compare: Annotated[bool, typer.Option("--compare", help="The base model answers beside the tuned one.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer; the recipe's when left out.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="For this conversation, such as guard.emergencies=true.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Talk with a run's model; questions may also come from a pipe, a line each."""
    with session(debug) as terminal:
        from residency.chat import talk
        from residency.chat.lines import questions, remember_lines

        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ctrl-C stops an answer here, and SIGTERM must still end all
        if sys.stdin.isatty():
            remember_lines()
            terminal.say(f"{run}: /help lists the commands, Ctrl-D leaves.")
        talk(
            run,
            questions(),
            _write,
            terminal.say,
            mark=lambda notice: terminal.notice(notice.notice, urgent=notice.urgent),
            compare=compare,
            max_new_tokens=max_new_tokens,
            overrides=overrides or (),
            progress=terminal,
        )


def _write(text: str) -> None:
    print(text, end="", flush=True)
