"""One self-contained page, and the same numbers for other programs."""

from residency.report.page import report

__all__ = ["report"]
