"""The command that starts a training on many devices, or writes down how."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from residency.cli.app import Debug, Json, Out, Overrides, RecipePath, app, session, show


@app.command()
def launch(
    recipe: RecipePath = None,
    nodes: Annotated[int, typer.Option("--nodes", help="Machines.")] = 1,
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs on each; on a CPU, processes.")] = 1,
    run: Annotated[
        bool, typer.Option("--run", help="Start it on this machine, instead of showing the command.")
    ] = False,
    host: Annotated[str, typer.Option("--host", help="Name of the machine where several meet.")] = "",
    slurm: Annotated[Path | None, typer.Option("--slurm", help="Write a Slurm batch script.")] = None,
    sky: Annotated[Path | None, typer.Option("--sky", help="Write a SkyPilot task; needs --gpu.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="SkyPilot's name of the GPU, such as H100.")] = None,
    kubernetes: Annotated[
        Path | None, typer.Option("--kubernetes", help="Write an indexed Job; needs --image.")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", help="Container image that has residency.")] = None,
    out: Out = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train on several GPUs or machines: the command, a script for a cluster, or the start itself."""
    with session(debug) as terminal:
        from residency.launch import SETTINGS, Launch, write
        from residency.recipe import Recipe

        loaded = Recipe.load(recipe, overrides or ())
        found = Launch(
            loaded, str(recipe) if recipe else None, nodes, gpus, str(out) if out else None, tuple(overrides or ())
        )
        if found.idle:
            least = loaded.train.examples_per_step
            idle = f"leave {found.idle} of {found.world} processes idle"
            terminal.say(f"{least} examples a step {idle}: raise train.examples_per_step, or take fewer")
        files = {
            file: text()
            for file, text in (
                (slurm, found.slurm),
                (sky, lambda: found.sky(gpu)),
                (kubernetes, lambda: found.kubernetes(image)),
            )
            if file
        }
        for file, text in files.items():
            write(file, text)
        if files and not run:
            written = [str(file) for file in files]
            show(as_json, {"files": written}, "\n".join(written))
            return
        command = found.command(host)
        if not run:
            settings = [f"{name}={value}" for name, value in SETTINGS.items()]
            show(as_json, {"command": command, "environment": SETTINGS}, shlex.join(["env", *settings, *command]))
            return
        terminal.close()
        _start(command, SETTINGS)


def _start(command: list[str], settings: dict[str, str]) -> None:
    """Be torchrun from here on, with its signals and its exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", *command[1:]]
    os.execve(sys.executable, command, {**settings, **os.environ})
