"""A run made again from its manifest, and held against it: inputs first, then what came of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from residency import origin
from residency.data import inputs_of
from residency.errors import UserError
from residency.pipeline import run
from residency.progress import Progress, Silent
from residency.recipe import Recipe
from residency.workspace import MANIFEST, Run

COMPARED = (
    "data/",
    "adapter/",
    "model/",
)  # the same to the bit from the same inputs, seed and versions
ABOUT = "data/report.json"  # which names the machine and its versions


def again(manifest: Path, folder: Path | None = None, progress: Progress | None = None) -> tuple[Path, list[str]]:
    """Make a manifest's run once more, in a folder of its own; returns the folder and the files that differ.

    The folder is `folder`, or that of the manifest with `-again` after its name.

    Raises:
        UserError: the manifest can't be read or names no inputs, an input is another one by now, or a stage refuses it.
    """
    progress = progress or Silent()
    then = read(manifest)
    recipe = Recipe.parse(then["recipe"], f"the recipe in {manifest}")
    changed, notes = compared(then, recipe)
    if changed:
        raise UserError(
            f"{manifest}: its inputs are not those of now ({origin.said(changed)})",
            "the same ones",
            "bring them back, or `residency run` with the recipe makes another run",
        )
    for note in notes:
        progress.say(note)
    here = manifest.resolve().parent
    folder = folder or here.with_name(f"{here.name}-again")
    if folder.resolve() == here:
        raise UserError(f"--out {folder}: is the folder of the manifest", "a folder of its own")
    run(recipe, folder, progress)
    return folder, differing(then, read(folder / MANIFEST))


def read(manifest: Path) -> dict[str, Any]:
    """A manifest that can be made again from.

    Raises:
        UserError: it is not there, damaged, or of no whole run.
    """
    try:
        found = json.loads(manifest.read_text("utf-8"))
        if all(found["made_from"][stage] for stage in ("prepare", "train")) and found["recipe"] and found["files"]:
            return dict(found)
        reason = "it was given data from Python"
    except OSError as error:
        reason = str(error.strerror)
    except (ValueError, TypeError):
        reason = "damaged"
    except KeyError as error:
        reason = f"it has no {error.args[0]}"
    raise UserError(f"{manifest}: {reason}", "the manifest.json of a run that was trained")


def compared(then: dict[str, Any], recipe: Recipe) -> tuple[list[str], list[str]]:
    """Inputs that are others by now; and notes: what could not be looked at, and which versions are others."""
    made = then["made_from"]
    prepared, trained = (made.get(stage) or {"inputs": {}, "versions": {}} for stage in ("prepare", "train"))
    notes, model = [], origin.of_model(recipe.model)
    if not prepared["inputs"]:
        notes.append(f"Not looked at: {recipe.data.source}, which is no file of this machine")
    changed = origin.differences(prepared["inputs"], inputs_of(recipe) if prepared["inputs"] else {})
    if model and trained["inputs"]:
        changed += origin.differences(trained["inputs"], model)
    elif trained["inputs"]:
        notes.append(f"Not looked at: {recipe.model.base}, which does not lie on this machine yet")
    return changed, notes + _versions(trained["versions"] or prepared["versions"])


def differing(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The files of data, adapter and model that are not the same to the bit."""
    one, other = (
        {name: entry["sha256"] for name, entry in side["files"].items() if name.startswith(COMPARED) and name != ABOUT}
        for side in (then, now)
    )
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def looked_at(folder: Path) -> list[str] | None:
    """What of a run's inputs is another one by now, a line each; None of a run whose manifest names none.

    Raises:
        UserError: the folder is no run, or has no manifest.
    """
    opened = Run.open(folder)
    then = opened.read_json(MANIFEST, "run")
    made = then.get("made_from") or {}
    if not made.get("prepare"):
        return None
    return compared(then, Recipe.parse(then["recipe"], f"the recipe in {folder / MANIFEST}"))[0]


def _versions(was: dict[str, str]) -> list[str]:
    from residency import environment

    now = environment.describe()
    found = [f"{name} was {was[name]}, is {now[name]}" for name in was if now.get(name, was[name]) != was[name]]
    return [f"Not the same as then: {', '.join(found)}; numbers may differ in their last digits"] if found else []
