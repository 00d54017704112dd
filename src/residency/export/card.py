"""The model card: what the model is, what it learnt from, what was measured, what it can't do."""

from __future__ import annotations

import html
import re
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError
from jinja2 import Environment, StrictUndefined

from residency import models
from residency.recipe import ModelSection
from residency.workspace import Run

BUILT_IN_LICENCE = "apache-2.0"  # SmolLM2's
SCORES = {
    "answer_nll": "answer NLL, nats a token",
    "rouge_l": "ROUGE-L",
    "chrf": "chrF",
    "stopped": "stops by itself",
    "repetition": "caught in a loop",
}
SHARES = ("stopped", "repetition")


def card(run: Run, examples: list[dict[str, Any]]) -> str:
    """The card as Markdown with the hub's metadata; `examples` are rows of `evaluation/answers.jsonl` to show.

    Numbers are those of the run's own files: nothing is claimed that was not measured.
    """
    recipe = run.recipe
    licence = licence_of(recipe.model)
    data = run.read_json("data/report.json", "prepare")
    scores = _maybe(run, "evaluation/scores.json")
    facts = ModelCardData(
        license=licence or "other",
        license_name=None if licence else "see-base-model",
        base_model=None if recipe.model.base in models.BUILT_IN else _hub_name(recipe.model.base),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["residency", recipe.train.method],
    )
    text = (resources.files("residency.export") / "card.md").read_text("utf-8")
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # Markdown
    environment.filters["as_it_stands"] = _as_it_stands
    body = environment.from_string(text).render(
        name=recipe.name,
        recipe=recipe,
        recipe_yaml=recipe.dump(),
        licence=licence,
        data=data,
        train=_maybe(run, "train.json"),
        scores=scores,
        rows=_rows(scores) if scores else [],
        examples=examples,
    )
    return str(ModelCard(f"---\n{facts.to_yaml()}\n---\n\n{body}"))


def _as_it_stands(text: str) -> str:
    """A text of which Markdown makes no markup, no link and no picture."""
    return re.sub(r"([\\`*_\[\]~|#!])", r"\\\1", html.escape(text, quote=False))


def licence_of(section: ModelSection) -> str | None:
    """The base model's licence as its own card names it; None where it has no card here."""
    if section.base in models.BUILT_IN:
        return BUILT_IN_LICENCE
    where, _ = models.locate(section)
    file = Path(where) / "README.md"
    try:
        found = ModelCard.load(file if file.is_file() else where, ignore_metadata_errors=True)
    except (OSError, ValueError, HfHubHTTPError):
        return None
    licence = getattr(found.data, "license", None)
    return str(licence) if licence else None


def _hub_name(base: str) -> str | None:
    return base if base.count("/") == 1 and not Path(base).exists() else None


def _rows(scores: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for key, label in SCORES.items():
        difference = scores["differences"].get(key)
        if not difference:
            continue
        base, tuned = (_written(key, scores["systems"][name][key]) for name in ("base", "tuned"))
        mean, low, high = (_written(key, difference[part]) for part in ("mean", "low", "high"))
        rows.append((label, base, tuned, f"{mean} ({low} to {high})"))
    return rows


def _written(key: str, value: float) -> str:
    return f"{100 * value:.0f}%" if key in SHARES else f"{value:.{3 if key == 'answer_nll' else 1}f}"


def _maybe(run: Run, name: str) -> Any:
    return run.read_json(name, "") if (run.folder / name).is_file() else None
