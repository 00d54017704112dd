"""Answers of a model, many at a time, and how likely it finds given ones."""
