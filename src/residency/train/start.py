"""Where training begins, when it is not the base model: another training's adapter, weights or checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from residency import models
from residency.errors import UserError
from residency.recipe import Recipe
from residency.train.checkpoints import fault_of
from residency.workspace import MANIFEST, RECIPE, Run, sha256

ADAPTER = "adapter_model.safetensors"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
SHAPE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")


@dataclass(frozen=True)
class Start:
    """The folder that training goes on from, what lies there, and the sha256 of its weights."""

    folder: str
    kind: Literal["adapter", "model"]
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def under(self, recipe: Recipe) -> Recipe:
        """The recipe with the model to load: whole weights take the base's place, an adapter is put on the base."""
        if self.kind == "adapter":
            return recipe
        section = recipe.model.model_copy(update={"base": self.folder, "revision": None, "trust_remote_code": False})
        return recipe.model_copy(update={"model": section})

    def fill(self, model: Any, recipe: Recipe) -> None:
        """Put the adapter's weights into the fresh adapters of a model; whole weights are there already.

        Raises:
            UserError: they are of another shape.
        """
        if self.kind == "adapter":
            models.fill_adapter(model, Path(self.folder), recipe.train.lora)


def find(recipe: Recipe, run: Run) -> Start | None:
    """What `train.continue_from` names: an adapter, a model, a checkpoint, or a run folder that holds one of them.

    Raises:
        UserError: it is not there or damaged, or does not fit the method or the base model.
    """
    if recipe.train.continue_from is None:
        return None
    named = Path(recipe.train.continue_from).expanduser()
    folder = _folder(named, recipe)
    if run.folder.resolve() in folder.resolve().parents:
        raise _refused(named, "lies in the folder of this run, which is written anew", "another run", "use --out")
    fault = fault_of(folder) if (folder / "trainer_state.json").exists() and (folder / MANIFEST).exists() else ""
    if fault:
        raise _refused(named, f"a damaged checkpoint ({fault})", "a whole one")
    if (folder / ADAPTER).is_file():
        if recipe.train.method == "full":
            raise _refused(named, "an adapter, and train.method is full", "whole weights", "use train.method=lora")
        return Start(str(folder), "adapter", sha256(folder / ADAPTER))
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise _refused(
            named, "holds no adapter and no model", "a folder that training left: adapter, model, checkpoint"
        )
    if recipe.train.method != "full":
        raise _refused(
            named, f"whole weights, and train.method is {recipe.train.method}", "an adapter", "set model.base to it"
        )
    _same_shape(recipe, named, folder)
    return Start(str(folder), "model", sha256(weights))


def _folder(named: Path, recipe: Recipe) -> Path:
    """The folder with the weights: of a run folder, the one that the method can go on from."""
    if not named.is_dir():
        what = "is a file" if named.exists() else "no such folder"
        raise _refused(named, what, "a run folder, or its adapter, model or checkpoint")
    if not (named / RECIPE).is_file():
        return named
    inner = named / ("model" if recipe.train.method == "full" else "adapter")
    if not inner.is_dir():
        raise _refused(named, f"a run without {inner.name}/", f"one trained to its end with {recipe.train.method}")
    return inner


def _same_shape(recipe: Recipe, named: Path, folder: Path) -> None:
    one = models.load_config(recipe.model)
    other = models.load_config(recipe.model.model_copy(update={"base": str(folder), "revision": None}))
    for key in SHAPE:
        is_, was = getattr(other, key, None), getattr(one, key, None)
        if is_ != was:
            raise _refused(named, f"{key} is {is_}, and {was} in {recipe.model.base}", "weights of the same base model")


def _refused(named: Path, found: str, expected: str, fix: str = "") -> UserError:
    return UserError(f"train.continue_from {named}: {found}", expected, fix)
