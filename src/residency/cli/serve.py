"""The command that serves a run's model."""

from __future__ import annotations

from typing import Annotated

import typer

from residency.cli.app import Debug, RunFolder, app, session


@app.command()
def serve(
    run: RunFolder,
    compare: Annotated[bool, typer.Option("--compare", help="The base model too, under the name base.")] = False,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; others than this machine's need a token.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes any that is free.")] = 8080,
    token_env: Annotated[
        str | None, typer.Option("--token-env", help="Environment variable with the token that clients send.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="A name that the server goes by, besides localhost.")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Answers at once, a model.")] = 16,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Answers that may wait; more get 503.")] = 64,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds that an answer may take.")] = 300,
    drain: Annotated[float, typer.Option("--drain", min=0, help="Seconds that running answers get at the end.")] = 30,
    engine: Annotated[
        str, typer.Option("--engine", help="What the model answers by: own, or vllm (a GPU and residency[vllm]).")
    ] = "own",
    debug: Debug = False,
) -> None:
    """Serve a run's model over HTTP, as OpenAI's API does."""
    with session(debug) as terminal:
        from residency.endpoint import key
        from residency.serve import Settings, serve

        def ready(address: str) -> None:
            terminal.say(f"{run}: chat, votes and report at {address} in a browser; Ctrl-C stops it. Programs ask at")
            print(f"{address}/v1", flush=True)

        token = key(token_env, "--token-env") if token_env else None
        names = tuple(allow_host or ())
        settings = Settings(host, port, token, names, concurrency, queue, seconds=timeout, drain=drain, engine=engine)
        serve(run, settings, compare=compare, progress=terminal, ready=ready)
