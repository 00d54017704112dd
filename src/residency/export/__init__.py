"""A trained model, where it is needed: a folder with its card, a GGUF file, Ollama, a hub."""

from residency.export.export import KINDS, Exported, export

__all__ = ["KINDS", "Exported", "export"]
