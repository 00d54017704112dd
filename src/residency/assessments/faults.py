"""Faults of a run's answers: found, explained, counted against an earlier run, and turned into a changed recipe."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from residency.endpoint import Endpoint
from residency.errors import UserError
from residency.progress import Progress, Silent
from residency.workspace import Run, replacing, sha256

FILE = "evaluation/faults.json"
JUDGED = "evaluation/judged.jsonl"


@dataclass(frozen=True)
class Fix:
    """A changed recipe: its file, what was changed, and the commands that run it and show what came of it."""

    file: Path
    changes: list[dict[str, Any]]
    commands: list[str]


def faults(
    folder: Path,
    progress: Progress | None = None,
    *,
    only: str | None = None,
    before: Path | None = None,
    judge: str | None = None,
    key_env: str | None = None,
) -> dict[str, Any]:
    """The faults of a run's answers; leaves `evaluation/faults.json` and a section of the report; returns its content.

    `only` is the name of one category; `before` an earlier run over the same questions; `judge` an endpoint's
    `URL#MODEL`, whose replies go to `evaluation/judged.jsonl`.

    Raises:
        UserError: the run was not evaluated, there is no such category, the endpoint fails, or no question is shared.
    """
    from residency import report as reporting
    from residency.evaluate import faults as analysis

    progress = progress or Silent()
    progress.stage("Faults")
    run = Run.open(folder)
    wanted = {category.name for category in analysis.chosen(only)}
    endpoint = Endpoint.judge(judge, key_env) if judge else None
    earlier = Run.open(before) if before else None
    options = {"--only": only, "--before": before, "--judge": judge, "--key-env": key_env}
    given = [part for name, value in options.items() if value for part in (name, str(value))]
    with run.working(shlex.join(["residency", "faults", str(folder), *given])):
        asked = analysis.read(run, analysis.stock_sentences(earlier) if earlier else ())
        ruled = analysis.find(asked)
        found = analysis.find(asked, endpoint, run.path(JUDGED), progress) if endpoint else ruled
        near = analysis.Nearest(run.dialogues("train"))
        if near.note:
            progress.say(f"Nearest training examples: {near.note}")
        resamples = run.recipe.evaluate.resamples
        report = analysis.summary(found, _evidence(run, found), near, resamples)
        report["before"] = None
        if earlier:  # what a judge adds to one of them would look like a change
            old = analysis.find(analysis.read(earlier, analysis.stock_sentences(run)))
            report["before"] = {"run": str(before)} | analysis.change(ruled, old, resamples)
        report["answers_sha256"] = sha256(run.need(analysis.ANSWERS, "evaluate"))
        run.write_json(FILE, report)
        reporting.report(run)
        run.seal()
    return report | {"categories": [one for one in report["categories"] if one["name"] in wanted]}


def fix(folder: Path, to: Path | None = None, only: str | None = None) -> Fix:
    """Write the recipe with the changes that a run's faults ask for; `faults` has been through the run before.

    Raises:
        UserError: the file is there already, or no change is worth a run.
    """
    from residency.evaluate import faults as analysis

    run = Run.open(folder)
    file = to or Path(f"{run.recipe.name}{analysis.ENDING}.yaml")
    if file.exists():
        raise UserError(f"--to {file}: there already", "a new file", "remove it, or name another with --to")
    report = run.read_json(FILE, "faults")
    wanted = {category.name for category in analysis.chosen(only)}
    categories = [name for name in report["worth"] if name in wanted]
    evidence = _evidence(run, analysis.find(analysis.read(run)))
    changes, recipe = analysis.together(categories, evidence)
    if not changes:
        faulty = f"against {', '.join(categories)}" if categories else "since hardly an answer has a fault"
        raise UserError(
            f"--fix: no change of the recipe is proposed {faulty}", fix=f"see the advice in {run.path(FILE)}"
        )
    renamed = analysis.renamed(recipe)
    with replacing(file) as temporary:
        temporary.write_text(analysis.written(renamed, changes, str(folder)), "utf-8")
    out = folder.with_name(folder.name + analysis.ENDING)
    commands = [f"residency run {file} --out {out}", f"residency faults {out} --before {folder}"]
    return Fix(file, [asdict(change) | {"shown": change.shown()} for change in changes], commands)


def _evidence(run: Run, found: Any) -> Any:
    """What was counted of the run, and the stock sentences that the tuned model's answers have."""
    from residency.evaluate import faults as analysis

    training = run.dialogues("train")
    reports = {
        name: run.read_json(file, stage) if (run.folder / file).is_file() else {}
        for name, file, stage in (
            ("data", "data/report.json", "prepare"),
            ("train", "train.json", "train"),
            ("scores", "evaluation/scores.json", "evaluate"),
        )
    }
    system = "tuned" if "tuned" in found.systems else found.systems[-1]
    known = found.asked[0].cases[system].known
    evidence = analysis.gather(run.recipe, reports, training, [one.reference for one in found.asked], known)
    return analysis.with_sentences(evidence, found, system, training)


def told(report: dict[str, Any], made: Fix | None = None) -> str:
    """A report of `faults`, and a changed recipe, as a text for people."""
    from residency.evaluate import faults as analysis

    text = analysis.told(report)
    return f"{text}\n\n{analysis.fixed(made)}" if made else text
