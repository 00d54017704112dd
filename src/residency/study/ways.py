"""The ways in which a question can be answered: with which weights, and with what before the question."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from residency import embeddings
from residency.errors import UserError, listed, nearest
from residency.recipe import Recipe

TUNED = ("lora", "full")  # ways that train, each a run in a folder of its name
# Usual learning rates against each other: adapters take ten times what all weights take, factors and prompts more.
RATES = {"full": 1, "freeze": 1, "lora": 10, "qlora": 10, "ia3": 100, "prompt-tuning": 100}


@dataclass(frozen=True)
class Way:
    """A way to answer.

    `weights` of the tuned are those of the better of the trained models. `before` is what stands before the question:
    nothing, a written instruction, training dialogues as earlier turns, or training answers as notes; `finder` says by
    what the nearest of them are found.
    """

    name: str
    label: str
    weights: Literal["base", "lora", "full", "tuned"] = "base"
    before: Literal["nothing", "instruction", "examples", "notes"] = "nothing"
    finder: Literal["", "bm25", "embeddings", "hybrid"] = ""

    @property
    def trains(self) -> bool:
        """Whether a model has to be trained for it."""
        return self.weights != "base"


WAYS = {
    way.name: way
    for way in (
        Way("base", "Base model"),
        Way("instruction", "Written instruction", before="instruction"),
        Way("few-shot", "Few-shot", before="examples", finder="bm25"),
        Way("bm25", "Retrieval by BM25", before="notes", finder="bm25"),
        Way("embeddings", "Retrieval by embeddings", before="notes", finder="embeddings"),
        Way("hybrid", "Hybrid retrieval", before="notes", finder="hybrid"),
        Way("lora", "LoRA", weights="lora"),
        Way("full", "Full fine-tuning", weights="full"),
        Way("tuned-bm25", "Tuned with retrieval", weights="tuned", before="notes", finder="bm25"),
    )
}


def chosen(names: str | None) -> list[Way]:
    """The ways that a comma-separated text names, in the order of the table; all where it is left out.

    The base model is always among them, since everything is compared with it.

    Raises:
        UserError: a name is none of the ways.
    """
    if names is None:
        return list(WAYS.values())
    asked = {name.strip() for name in names.split(",") if name.strip()}
    unknown = sorted(asked - set(WAYS))
    if unknown:
        raise UserError(f'--ways: no way "{unknown[0]}"', f"some of {listed(WAYS)}", nearest(unknown[0], WAYS))
    return [way for way in WAYS.values() if way.name in asked | {"base"}]


def missing(way: Way) -> str:
    """Why a way can't be gone here: what is to be installed for it; empty where it can."""
    if way.finder in ("bm25", "hybrid") and find_spec("bm25s") is None:
        return "needs bm25s: pip install 'residency[retrieve]'"
    if way.finder in ("embeddings", "hybrid") and not embeddings.available():
        return "needs sentence embeddings: pip install 'residency[embeddings]'"
    return ""


def tuned(recipe: Recipe, way: str) -> Recipe:
    """The recipe of a training in a study, by lora or full, at a learning rate that suits the method.

    It is `study.lora_learning_rate` or `study.full_learning_rate`, or else that of the recipe, scaled by `RATES`.
    """
    given = {"lora": recipe.study.lora_learning_rate, "full": recipe.study.full_learning_rate}[way]
    scaled = recipe.train.learning_rate * RATES[way] / RATES[recipe.train.method]
    train = recipe.train.model_copy(update={"method": way, "learning_rate": given or min(scaled, 1.0)})
    return recipe.model_copy(update={"name": f"{recipe.name}-{way}", "train": train})
