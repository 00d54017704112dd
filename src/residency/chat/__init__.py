"""A conversation with a run's model in the terminal, the base model beside it where that is wanted."""

from residency.chat.loop import talk

__all__ = ["talk"]
