"""Personal data becomes placeholders: counted by kind, and never shown, logged or put into an error."""

from residency.data.privacy.redact import COLUMNS, KINDS, PLACEHOLDER, redact, redacted, redacted_names, told

__all__ = ["COLUMNS", "KINDS", "PLACEHOLDER", "redact", "redacted", "redacted_names", "told"]
