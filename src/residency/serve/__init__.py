"""A run's models behind OpenAI's interface (extra `serve`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from residency.errors import UserError
from residency.progress import Progress
from residency.serve.settings import Settings
from residency.workspace import Run

NEEDED = ("fastapi", "uvicorn", "prometheus_client")

__all__ = ["serve"]


def serve(
    folder: Path,
    *,
    host: str,
    port: int,
    token: str | None,
    hosts: tuple[str, ...],
    rows: int,
    queue: int,
    seconds: float,
    drain: float,
    compare: bool,
    progress: Progress,
    ready: Callable[[str], None],
) -> None:
    """Answer with a run's model until the process is told to stop; `ready` is told the address.

    Raises:
        UserError: there is no such run, it was not trained, the address can't be had, or the extra is not installed.
    """
    _installed()
    settings = Settings(host, port, token, hosts, rows, queue, seconds=seconds, drain=drain)
    run = Run.open(folder)
    run.need("model", "train")
    from residency.serve import server  # what is wrong with the settings is said before torch is loaded
    from residency.serve.app import create_app
    from residency.serve.served import load

    sock = server.listen(settings)  # before the models are loaded, which takes longer
    try:
        service = load(run, settings, compare=compare, say=progress.say)
        cut = server.run(create_app(service, settings), service, settings, sock, lambda: ready(server.address(sock)))
    finally:
        sock.close()
    progress.say(f"Stopped; {cut} answers were cut off." if cut else "Stopped.")


def _installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"`residency serve` needs {', '.join(missing)}", fix="pip install 'residency[serve]'")
