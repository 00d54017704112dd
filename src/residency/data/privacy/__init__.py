"""Personal data becomes placeholders: counted by kind, and never shown, logged or put into an error."""

from residency.data.privacy.redact import KINDS, redact

__all__ = ["KINDS", "redact"]
