"""Decoding of many answers at once, which evaluation and the server share, and what a run chose of it."""
