"""Personal data becomes placeholders: counted by kind, and never shown, logged or put into an error."""

from residency.data.privacy.redact import COLUMNS, KINDS, redact, redacted, told

__all__ = ["COLUMNS", "KINDS", "redact", "redacted", "told"]
