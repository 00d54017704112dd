"""The whole story on one page: from a recipe to a report. The only place that joins the stages.

Each stage reads the run folder and adds to it, so that each can be run again alone.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residency import ranks
from residency.changes import changes
from residency.errors import UserError, listed
from residency.models import load_prompt
from residency.progress import Progress, Silent
from residency.recipe import Recipe
from residency.workspace import Run, replacing

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from residency.data.look import Proposal
    from residency.evaluate import EvaluationReport
    from residency.prompts import Prompt
    from residency.sharing import Sharing
    from residency.train import Examples, Plan, Sweep, TrainReport

PAIR_TOKENS = 160  # that a model may write for a question-answer pair: one to four sentences, and the JSON around them
PREPARED_WITH = ("data", "model", "prompt")  # sections of a recipe that decide what `data/` holds
AFTER_DATA = ("train.json", "evaluation", "report.html", "report.json")  # what comes of the data in later stages


def folder_of(recipe: Recipe, out: Path | None) -> Path:
    """Where a recipe's run lies: `out`, or `runs/NAME`."""
    return out or Path("runs") / recipe.name


def run(
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    fit: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """All stages; returns the path of `report.html`. `callbacks` are transformers' own, for the training.

    `fit` takes the nearest setting that this machine has memory for, where the recipe as it stands will not fit.

    Raises:
        UserError: the folder holds a run of another recipe, or a stage refuses its input.
        Interrupted: stopped by the user; the message says how to go on.
    """
    progress = progress or Silent()
    go_on = resume and (folder / "data" / "report.json").is_file()
    if not overwrite and not go_on:
        _refuse_another(recipe, folder, fit)
    if not go_on:
        prepare(recipe, folder, progress)
    train(recipe, folder, progress, resume=go_on, fit=fit, callbacks=callbacks)
    evaluate(folder, progress)
    return report(folder, progress)


def init(name: str, source: str, file: Path, progress: Progress | None = None) -> Path:
    """Look at a source and write a commented recipe for it; returns its path.

    Raises:
        UserError: the file is there already, or the source can't be read.
    """
    from residency.commented import commented

    progress = progress or Silent()
    if file.exists():
        raise UserError(f"recipe {file}: there already", "a new name", "remove it, or choose another NAME")
    proposal = look(source)
    for line in proposal.lines:
        progress.say(line)
    values = {"name": name, "data": proposal.data, "model": {"max_length": proposal.max_length}}
    if proposal.train:
        values["train"] = proposal.train
    Recipe.parse(values, f"recipe {name}")
    with replacing(file) as temporary:
        temporary.write_text(commented(values), "utf-8")
    return file


def look(source: str, given: Any = None) -> Proposal:
    """What the columns of a source are taken for, and how long its rows are; `given` is a data frame in its place.

    Raises:
        UserError: the source can't be read, or has no column of text.
    """
    from residency.data.look import look as looked

    return looked(source, given)


def prepare(
    recipe: Recipe, folder: Path, progress: Progress | None = None, given: Any = None, sharing: Sharing | None = None
) -> dict[str, Any]:
    """Load, clean, audit and split the recipe's data into `data/`, unless it lies there already; returns its report.

    `given` takes the place of the source: a pandas or polars data frame, or a datasets.Dataset. `sharing` says how many
    processes share the rows; as many as pay where it is left out. See `residency.data.prepare`.
    """
    from residency import data

    progress = progress or Silent()
    progress.stage("Prepare")
    made = Run(folder)
    if given is None and data.reusable(recipe, made):
        with made.locked():
            made.keep_recipe(recipe)
        progress.say("Nothing has changed since this data was prepared: it is used again")
        return _prepared(made, progress)
    prompt = load_prompt(recipe, progress)
    with made.working(f"residency prepare RECIPE --out {folder}"):
        made.forget("manifest.json", "data/report.json", *AFTER_DATA)  # data without its report is not whole
        made.take(recipe)
        data.prepare(recipe, made, prompt, progress, given, ask=_own_model(recipe, progress), sharing=sharing)
        made.seal()
    return _prepared(made, progress)


def plan(
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    *,
    measure: bool = True,
    machines: Sequence[str] = (),
    nodes: int = 1,
    fit: bool = False,
) -> Plan:
    """What a run will take, here and on machines of the table; see `residency.train.plan`. Leaves nothing behind.

    The data is the prepared data of the run folder, or else prepared for this and thrown away.
    """
    from residency import train as training

    progress = progress or Silent()
    progress.stage("Plan")
    with tempfile.TemporaryDirectory() as scratch:
        given, notes = _planned(recipe, folder, Run(Path(scratch)), progress)
    found = training.plan(recipe, given, progress, measure=measure, names=machines, nodes=nodes, notes=notes)
    if fit and found.fitting and found.fitting != recipe:
        taken = f"Taken, since the recipe as it stands does not fit: {found.nearest}"
        notes = [*notes, taken]
        found = training.plan(found.fitting, given, progress, measure=measure, names=machines, nodes=nodes, notes=notes)
    return found


def _planned(recipe: Recipe, folder: Path, scratch: Run, progress: Progress) -> tuple[Examples, list[str]]:
    """The examples to plan over, and what has to be said of them."""
    from residency import data
    from residency import train as training

    try:
        prompt = load_prompt(recipe, progress)
    except UserError as error:
        given = training.assumed(recipe)
        return given, [f"No tokenizer ({error.found}): {training.described(given)} are assumed."]
    made = Run(folder)
    if not data.reusable(recipe, made) and not _given(recipe, made):
        Run.create(scratch.folder, recipe)
        data.prepare(recipe, scratch, prompt)
        made = scratch
    return training.examples(recipe, made, prompt), []


def _given(recipe: Recipe, made: Run) -> bool:
    """Whether the run's data was given from Python under these settings: it is read from nowhere else."""
    if not (made.folder / "data" / "report.json").is_file():
        return False
    report = made.read_json("data/report.json", "prepare")
    return report.get("key", "") is None and not _prepared_otherwise(recipe, made)


def train(
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    *,
    resume: bool = False,
    fit: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainReport:
    """Fine-tune on the prepared data; leaves `model/`, `metrics.jsonl`, `train.json`; see `residency.train.train`.

    `resume` goes on from the newest whole checkpoint, and where training came to its end already, returns its report;
    so does a process that torchrun starts anew.
    `fit` takes the nearest setting that this machine has memory for, where the recipe as it stands will not fit.
    """
    from residency import train as training

    progress, resume = progress or Silent(), resume or ranks.restarted()
    progress.stage("Train")
    opened = Run.open(folder)
    _refuse_other_data(recipe, opened)
    if fit:
        recipe = _fitted(recipe, opened, progress, resume=resume)
    if resume:
        training.refuse_changed(recipe, opened)
    with opened.working(f"residency train RECIPE --resume --out {folder}"):
        done = training.finished(opened) if resume else None
        if done:
            progress.say("This training has come to its end: there is nothing to resume")
            opened.keep_recipe(recipe)
            return done
        prompt = load_prompt(recipe, progress)
        opened.forget("manifest.json", *AFTER_DATA)
        opened.take(recipe)
        judge = _judge(recipe, opened, prompt)
        found = training.train(recipe, opened, prompt, progress, resume=resume, judge=judge, callbacks=callbacks)
        opened.seal()
    return found


def find_learning_rate(recipe: Recipe, folder: Path, progress: Progress | None = None) -> Sweep:
    """Sweep the learning rate on the prepared data; leaves `lr_finder.json` and `.png`, and nothing else differs."""
    from residency import train as training

    progress = progress or Silent()
    progress.stage("Learning rate")
    opened = Run.open(folder)
    _refuse_other_data(recipe, opened)
    prompt = load_prompt(recipe, progress)
    with opened.working(f"residency train RECIPE --find-lr --out {folder}"):
        found = training.find_learning_rate(recipe, opened, prompt, progress)
        opened.seal()
    return found


def schedule(recipe: Recipe, folder: Path, steps: int | None = None) -> list[float]:
    """The learning rate of each step that a training of the recipe would take, with no model loaded.

    Raises:
        UserError: how many steps it takes can't be told, since the data was not prepared and nothing says it.
    """
    from residency.train.schedules import curve, steps_of

    steps = steps or recipe.train.max_steps
    if steps is None:
        if not (folder / "data" / "train.jsonl").is_file():
            raise UserError(
                f"plan --schedule: how many steps is not known before the data in {folder} is prepared",
                fix="add --steps N, or run `residency prepare` first",
            )
        steps, _ = steps_of(recipe.train, len(Run(folder).dialogues("train")))
    return curve(recipe.train, steps)


def evaluate(
    folder: Path,
    progress: Progress | None = None,
    overrides: tuple[str, ...] = (),
    against: Sequence[str] = (),
    key_env: str = "OPENAI_API_KEY",
) -> EvaluationReport:
    """Base, tuned and what `against` names on the held-out rows; leaves `evaluation/`.

    See `residency.evaluate.evaluate`. The answers are a data frame of polars too: `evaluate(...).frame()`.
    """
    from residency import evaluate as evaluation

    progress = progress or Silent()
    progress.stage("Evaluate")
    opened = Run.open(folder)
    opened.need("train.json", "train")  # a model without it is of a training before the one that was stopped
    options = [part for other in against for part in ("--against", other)]
    options += ["--key-env", key_env] if against and key_env != evaluation.KEY_ENV else []
    with opened.working(shlex.join(["residency", "evaluate", str(folder), *options])):
        recipe = opened.load_recipe(overrides)
        prompt = load_prompt(recipe, progress)
        found = evaluation.evaluate(recipe, opened, prompt, progress, against=against, key_env=key_env)
        opened.seal()
    return found


def ask(folder: Path, questions: Sequence[str], progress: Progress | None = None) -> list[dict[str, str]]:
    """The answers of base and tuned to questions of one's own, under the run's decoding: question, base, tuned.

    Raises:
        UserError: the run was not trained.
    """
    from residency import evaluate as evaluation

    opened = Run.open(folder)
    recipe = opened.recipe
    return evaluation.replies(recipe, opened, load_prompt(recipe, progress), questions, progress)


def report(folder: Path, progress: Progress | None = None) -> Path:
    """One self-contained page of what the run holds so far; returns the path of `report.html`."""
    from residency import report as reporting

    progress = progress or Silent()
    progress.stage("Report")
    opened = Run.open(folder)
    with opened.working(f"residency report {folder}"):
        page = reporting.report(opened)
        opened.seal()
    return page


def verify(folder: Path) -> list[str]:
    """What is wrong with a run folder, a line a file; empty when each file is as the manifest says."""
    return Run.open(folder).verify()


def _prepared(made: Run, progress: Progress) -> dict[str, Any]:
    found: dict[str, Any] = made.read_json("data/report.json", "prepare")
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in found["dropped"].items())
    progress.say(
        f"{found['rows_in']:,} rows read, {found['kept']:,} kept" + (f"; dropped: {dropped}" if dropped else "")
    )
    progress.say(", ".join(f"{size:,} {name}" for name, size in found["split"].items()))
    if mixed := found.get("redirects"):
        progress.say(
            f"{mixed['n']:,} of the training rows are redirects ({100 * mixed['share']:.0f}%), not of your data"
        )
    for finding in found["findings"]:
        if finding["severity"] != "note":
            progress.say(f"{finding['kind']}: {finding['count']:,} rows. {finding['advice']}")
    return found


def _judge(recipe: Recipe, opened: Run, prompt: Prompt) -> Callable[[Any], dict[str, float]] | None:
    """Training may not ask a model for answers by itself: the evaluation lends it the means."""
    if recipe.train.best_by == "loss":
        return None
    from residency import evaluate as evaluation

    return evaluation.judge(recipe, opened, prompt)


def _own_model(recipe: Recipe, progress: Progress) -> Callable[[list[str]], list[str]] | None:
    """The run's base model as a writer of question-answer pairs, where the recipe asks for one and no endpoint is."""
    section = recipe.data.synthesise
    if section is None or "model" not in section.by or section.endpoint:
        return None
    from residency.evaluate import asker

    return asker(recipe.model, PAIR_TOKENS * section.pairs, progress)


def _fitted(recipe: Recipe, opened: Run, progress: Progress, *, resume: bool) -> Recipe:
    """The nearest recipe that fits; a run that goes on keeps what was found when it began."""
    from residency import train as training

    if resume:
        return training.as_fitted(recipe, opened.recipe)
    found = training.fitted(recipe, opened, load_prompt(recipe, progress))
    if found != recipe:
        progress.say(f"Taken, since the recipe as it stands does not fit: {training.said(recipe, found)}")
    return found


def _refuse_another(recipe: Recipe, folder: Path, fit: bool = False) -> None:
    """`fit` may have changed what fitting changes, but nothing else."""
    if not (folder / "recipe.yaml").is_file():
        return
    before = Run.open(folder).recipe
    if fit:
        from residency.train import as_fitted

        before = as_fitted(before, recipe)
    if before != recipe:
        found = changes(before.model_dump(mode="json"), recipe.model_dump(mode="json"))
        raise UserError(
            f"run folder {folder}: holds a run of another recipe ({listed(found, 6)})",
            "a new folder, or the same recipe",
            "name another with --out, or replace it with --overwrite",
        )


def _refuse_other_data(recipe: Recipe, opened: Run) -> None:
    opened.need("data/report.json", "prepare")
    changed = _prepared_otherwise(recipe, opened)
    if changed:
        was, now = (one.model_dump(mode="json", include=set(changed)) for one in (opened.recipe, recipe))
        raise UserError(
            f"run folder {opened.folder}: its data was prepared with other settings under {' and '.join(changed)} "
            f"({listed(changes(was, now), 6)})",
            "the same recipe",
            "run `residency prepare` again, or use --out",
        )


def _prepared_otherwise(recipe: Recipe, opened: Run) -> list[str]:
    """The sections that decide what the data is, as far as they are others than those it was prepared with."""
    was, now = (one.model_dump(mode="json", include=set(PREPARED_WITH)) for one in (opened.recipe, recipe))
    return [section for section in PREPARED_WITH if was[section] != now[section]]
