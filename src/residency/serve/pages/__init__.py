"""The pages that `residency serve` shows: a chat, blind votes, the ratings that follow, and the run's report."""

from fastapi import APIRouter

from residency.serve.pages.both import live
from residency.serve.pages.routes import Live, router
from residency.serve.served import Service
from residency.serve.settings import Settings

__all__ = ["Live", "of", "router"]


def of(service: Service, settings: Settings) -> APIRouter:
    """The pages of the run that is served."""
    return router(service.run, live(service, settings.seconds), settings.token)
