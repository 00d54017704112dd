"""The pages that `residency serve` shows: a chat, blind votes, the ratings that follow, and the run's report."""

from residency.serve.pages.routes import Live, router

__all__ = ["Live", "router"]
