"""The pages that `residency serve` shows: a chat, blind votes, the ratings that follow, and the run's report."""

from fastapi import APIRouter

from residency.serve.pages.both import live
from residency.serve.pages.routes import Live, router
from residency.serve.served import Service
from residency.serve.settings import Settings
from residency.workspace import Run

__all__ = ["Live", "of", "router"]


def of(run: Run, service: Service, settings: Settings) -> APIRouter:
    """The pages of a run whose models are served."""
    return router(run, live(service, settings.seconds), settings.token)
