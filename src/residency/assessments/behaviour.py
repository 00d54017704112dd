"""How far a run's model stays in its role, beside its base: probes of six sets, answers and verdicts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from residency import pipeline
from residency.models import load_prompt
from residency.progress import Progress, Silent
from residency.workspace import Run

if TYPE_CHECKING:
    from residency.evaluate.behaviour.trial import BehaviourReport


def behaviour(
    folder: Path,
    progress: Progress | None = None,
    *,
    sets: Sequence[str] = (),
    limit: int | None = None,
    files: Sequence[Path] = (),
) -> BehaviourReport:
    """Ask base and tuned the probes; leaves `evaluation/behaviour.json` and `.jsonl`, and a report page with them.

    `sets` are all when left out; `limit` takes the first of each; `files` stand in for the built-in probes. What an
    earlier call found is replaced.

    Raises:
        UserError: the run was not trained, or the probes can't be read.
        Interrupted: stopped by the user; nothing of this call is kept.
    """
    from residency.evaluate.behaviour import probes
    from residency.evaluate.behaviour import trial as asking

    progress = progress or Silent()
    progress.stage("Behaviour")
    opened = Run.open(folder)
    taken = probes.chosen(sets, limit, files)
    opened.need("model", "train")
    recipe = opened.recipe
    prompt = load_prompt(recipe, progress)
    source = ", ".join(map(str, files)) or "built in"
    with opened.working(_again(folder, sets, limit, files)):
        found = asking.behaviour(recipe, opened, prompt, taken, source=source, progress=progress)
        opened.seal()
    progress.table("Share that stays in the role", [(name, _line(own)) for name, own in found.sets.items()])
    pipeline.report(folder, progress)
    return found


def _again(folder: Path, sets: Sequence[str], limit: int | None, files: Sequence[Path]) -> str:
    """The command that asks the same again."""
    parts = ["residency", "behaviour", str(folder)]
    parts += ["--sets", ",".join(sets)] if sets else []
    parts += ["--limit", str(limit)] if limit else []
    parts += [part for file in files for part in ("--probes", str(file))]
    return shlex.join(parts)


def _line(own: object) -> str:
    from residency.evaluate.behaviour.trial import SetReport

    assert isinstance(own, SetReport)
    change = own.difference
    return (
        f"base {100 * own.base.mean:.0f}%, tuned {100 * own.tuned.mean:.0f}% of {own.probes}; "
        f"{100 * change.mean:+.0f} pp ({100 * change.low:+.0f} to {100 * change.high:+.0f})"
    )
