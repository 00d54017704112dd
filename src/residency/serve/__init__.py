"""A run's models behind OpenAI's interface (extra `serve`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from residency.errors import UserError
from residency.progress import Progress
from residency.serve import vllm_fit
from residency.serve.settings import Settings
from residency.workspace import Run

NEEDED = ("fastapi", "uvicorn", "prometheus_client")

__all__ = ["Settings", "serve"]


def serve(
    folder: Path,
    settings: Settings,
    *,
    compare: bool,
    progress: Progress,
    ready: Callable[[str], None],
) -> None:
    """Answer with a run's model until the process is told to stop; `ready` is told the address.

    Raises:
        UserError: there is no such run, it was not trained, the address can't be had, or the extra is not installed.
    """
    _installed()
    run = Run.open(folder)
    run.need("model", "train")
    if settings.engine == "vllm":
        vllm_fit.refuse(run, compare=compare)
    from residency.serve import pages, server  # what is wrong with the run is said before torch is loaded
    from residency.serve.app import create_app
    from residency.serve.served import load

    sock = server.listen(settings)  # before the models are loaded, which takes longer
    try:
        service = load(run, settings, compare=compare, say=progress.say)
        app = create_app(service, settings, [pages.of(run, service, settings)])
        cut = server.run(app, service, settings, sock, lambda: ready(server.address(sock)))
    finally:
        sock.close()
    progress.say(f"Stopped; {cut} answers were cut off." if cut else "Stopped.")


def _installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"`residency serve` needs {', '.join(missing)}", fix="pip install 'residency[serve]'")
