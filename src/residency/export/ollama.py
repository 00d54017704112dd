"""A Modelfile, from which Ollama makes a model with the right prompts, stop words and decoding."""

from __future__ import annotations

from typing import Any

from residency.export.form import Form
from residency.prompts import Prompt
from residency.recipe import Recipe


def modelfile(recipe: Recipe, prompt: Prompt, decoding: dict[str, Any], weights: str) -> str:
    """The Modelfile's text; `weights` is the GGUF file beside it, `decoding` what the model answers under.

    Format: https://docs.ollama.com/modelfile
    """
    form = Form.of(prompt)
    stops = {prompt.tokenizer.decode([token]) for token in prompt.stop_ids} | {form.close.strip()} - {""}
    lines = [
        f"FROM ./{weights}",
        f"TEMPLATE {_quoted(form.go())}",
        *[f"PARAMETER stop {_quoted(stop)}" for stop in sorted(stops)],
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {recipe.model.max_length}",
        f"PARAMETER repeat_penalty {decoding.get('repetition_penalty', 1.0)}",
    ]
    if recipe.prompt.system:
        lines.append(f"SYSTEM {_quoted(recipe.prompt.system)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return f'"""{text}"""' if "\n" in text or '"' in text else f'"{text}"'
