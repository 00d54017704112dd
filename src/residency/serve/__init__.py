"""A run's models behind OpenAI's interface (extra `serve`)."""
