"""Is fine-tuning worth it here? The same held-out questions in every way, and which of the ways to use.

Everything lies in one folder: the prepared data, the trainings as runs in folders of their own, `ways/` with what each
finished way gave, and `study.json` and `study.html`. What is finished and still of this recipe is kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from residency import environment, models, pipeline
from residency.changes import important
from residency.errors import Interrupted, UserError
from residency.evaluate.compare import VALIDATION_QUESTIONS, Exam, Question, question_of
from residency.evaluate.scores.values import Facts
from residency.progress import Progress, Silent
from residency.prompts import Before, Prompt
from residency.recipe import Recipe
from residency.report import figures
from residency.report import study as reporting
from residency.study.build import Put, instruction_of, put, room
from residency.study.measure import ALONE, compared, measure
from residency.study.retrieve import Finder, build, sources_of
from residency.study.verdict import verdict
from residency.study.ways import TUNED, Way, chosen, missing, tuned
from residency.workspace import Dialogue, Run, sha256

SPLITS = tuple(f"data/{name}.jsonl" for name in ("train", "validation", "test"))
NOTHING_TO_BUILD = {"seconds": 0.0, "peak_bytes": 0}


def folder_of(recipe: Recipe, out: Path | None) -> Path:
    """Where a recipe's study lies: `out`, or `runs/NAME-study`."""
    return out or Path("runs") / f"{recipe.name}-study"


def study(recipe: Recipe, folder: Path, progress: Progress | None = None, *, ways: str | None = None) -> Path:
    """Go every way, or those that `ways` names; leaves `study.json` and `study.html`, whose path it returns.

    Raises:
        UserError: a way is unknown, the data has no questions or nothing held out, a training row is held out too, or
            the folder is that of a run.
        Interrupted: stopped by the user; the same command goes on.
    """
    progress = progress or Silent()
    asked = chosen(ways)
    _refuse(recipe, folder)
    again = f"residency study RECIPE --out {folder}"
    try:
        pipeline.prepare(recipe, folder, progress)
    except Interrupted:
        raise Interrupted(f"stopped; go on with `{again}`") from None
    run = Run.open(folder)
    with run.working(again):
        progress.stage("Study")
        work = _begin(recipe, run, progress)
        left_out = {way.label: reason for way in asked if (reason := missing(way) or work.refused(way))}
        for label, reason in left_out.items():
            progress.say(f"Left out: {label}, which {reason}")
        going = [way for way in asked if way.label not in left_out]
        page = _write(work, _go(work, going), left_out)
        run.seal()
    return page


@dataclass
class _Work:
    """What all ways have in common, and the indexes that were built so far."""

    recipe: Recipe
    run: Run
    exam: Exam
    validation: list[Question]
    sources: list[Dialogue]
    instruction: str
    data: dict[str, str]
    finders: dict[str, Finder] = field(default_factory=dict)

    def finder(self, kind: str) -> Finder:
        """The index of a kind, built when it is first asked for."""
        if kind not in self.finders:
            self.exam.progress.say(f"Building an index of {len(self.sources):,} training dialogues: {kind}")
            self.finders[kind] = build(kind, self.sources)
        return self.finders[kind]

    def asked(self, way: Way, questions: Sequence[Question]) -> list[Put]:
        """The questions as a way asks them."""
        nearest: list[list[int]] = [[] for _ in questions]
        if way.finder:
            texts = [asked.question for asked in questions]
            nearest = self.finder(way.finder).nearest(texts, self.recipe.study.neighbours)
        prompt, space = self.exam.prompt, room(self.recipe)

        def fits(question: str, before: Before) -> bool:
            return len(prompt.prompt_ids(question, before)) <= space

        return [
            put(way, asked, [self.sources[place] for place in places], self.instruction, fits)
            for asked, places in zip(questions, nearest, strict=True)
        ]

    def refused(self, way: Way) -> str:
        """Why this model's prompt has no place for what the way puts into it; empty where it has."""
        if way.before not in ("instruction", "notes"):
            return ""
        try:
            self.exam.prompt.text("question", Before("system"))
        except UserError:
            return "needs a system message, and the tokenizer's chat template takes none"
        return ""


def _refuse(recipe: Recipe, folder: Path) -> None:
    if recipe.train.objective != "sft":
        raise UserError(
            f"train.objective is {recipe.train.objective}: a study compares ways to learn or look up answers",
            "sft",
            "--set train.objective=sft",
        )
    if (folder / "train.json").is_file() or (folder / "model").is_dir():
        raise UserError(f"run folder {folder}: holds a run", "a folder of the study's own", "name another with --out")


def _begin(recipe: Recipe, run: Run, progress: Progress) -> _Work:
    environment.keep_freed_memory()
    tests = run.dialogues("test")[: recipe.evaluate.questions]
    if not tests:
        raise UserError(f"data.test {recipe.data.test:g}: no question is held out", "a share such as 0.1")
    if not all(dialogue.question for dialogue in tests):
        raise UserError(f"data.source {recipe.data.source}: plain texts have no questions", "questions with answers")
    if room(recipe) <= 0:
        raise UserError(
            f"evaluate.max_new_tokens {recipe.evaluate.max_new_tokens} leaves no room for a prompt",
            f"fewer than model.max_length, {recipe.model.max_length}",
        )
    prompt: Prompt = models.load_prompt(recipe, progress)
    sources = sources_of(run)
    return _Work(
        recipe=recipe,
        run=run,
        exam=Exam(recipe, prompt, [_question(dialogue, recipe) for dialogue in tests], Facts(), progress),
        validation=[_question(dialogue, recipe) for dialogue in run.dialogues("validation")[:VALIDATION_QUESTIONS]],
        sources=sources,
        instruction=instruction_of(recipe, sources),
        data={name: sha256(run.need(name, "prepare")) for name in SPLITS},
    )


def _question(dialogue: Dialogue, recipe: Recipe) -> Question:
    """What is asked, with the system message that stands before it in every way: the data's own, or the recipe's."""
    asked = question_of(dialogue)
    return replace(asked, before=replace(asked.before, system=asked.before.system or recipe.prompt.system or ""))


def _go(work: _Work, ways: list[Way]) -> dict[str, dict[str, Any]]:
    """What each way gave, in their order: kept from before, or gone now; one model is loaded at a time."""
    trained: list[str] = [way.name for way in ways if way.name in TUNED] or [TUNED[0]]
    found: dict[str, dict[str, Any]] = {}
    for weights in dict.fromkeys(way.weights for way in ways):
        group = [way for way in ways if way.weights == weights]
        names: list[str] = {"base": [], "tuned": trained}.get(weights, [weights])
        keys = {way.name: _key(work, way, names) for way in group}
        kept = {way.name: own for way in group if (own := _finished(work.run, way, keys[way.name]))}
        if kept:
            work.exam.progress.say(f"Kept: {', '.join(own['label'] for own in kept.values())}")
        found |= kept
        todo = [way for way in group if way.name not in kept]
        if todo:
            work.run.forget("study.json", "study.html", "figures")
            found |= _answered(work, todo, names, keys)
    return {way.name: found[way.name] for way in ways}


def _answered(work: _Work, ways: list[Way], names: list[str], keys: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Train what has to be trained, load the model, and go these ways with it; each is written when it is finished."""
    built = _best([_trained(work, name) for name in names]) if names else None
    for way in ways:  # before a model is loaded, so that the memory an index takes is its own
        if way.finder:
            work.finder(way.finder)
    environment.give_back_memory()
    dtype = models.fast_dtype()
    if built:
        model: Any = models.load_tuned(built[0].need("model", "train"), dtype)
    else:
        model = models.load_base(work.recipe.model, dtype, progress=work.exam.progress)
    model = model.to(models.device())
    found = {}
    for way in ways:
        work.exam.progress.stage(f"Study: {way.label}")
        made = _one(work, way, model, built[1] if built else NOTHING_TO_BUILD) | {"key": keys[way.name]}
        work.run.write_json(f"ways/{way.name}.json", made)
        found[way.name] = made
    del model
    environment.give_back_memory()
    return found


def _one(work: _Work, way: Way, model: Any, training: dict[str, Any]) -> dict[str, Any]:
    """One way, as plain values."""
    with models.quiet_libraries():
        own = asdict(measure(model, work.exam, lambda asked: work.asked(way, asked), work.validation, way.label))
    cost = dict(training)
    if way.finder:
        index = work.finder(way.finder)
        cost = {
            "seconds": cost["seconds"] + index.seconds,
            "peak_bytes": max(cost["peak_bytes"], index.peak_bytes),
        }
    answer = {key: own.pop(key) for key in ("alone_seconds", "batch_seconds", "prompt_tokens", "new_tokens")}
    return {"label": way.label, "trains": way.trains, "build": cost, "answer": answer, **own}


def _trained(work: _Work, name: str) -> tuple[Run, dict[str, Any]]:
    """A training's run and its report; it goes on where it was, and begins anew where recipe or data are others."""
    own, folder = tuned(work.recipe, name), work.run.folder / name
    if not _same_training(own, folder, work.data):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(work.run.folder / "data", folder / "data")
        Run.create(folder, own)  # last: a folder without a recipe is begun anew
    environment.give_back_memory()
    environment.forget_peak()
    try:
        pipeline.train(own, folder, work.exam.progress, resume=True)
    except Interrupted as stopped:
        raise Interrupted(str(stopped).partition(";")[0]) from None
    run = Run.open(folder)
    return run, run.read_json("train.json", "train")


def _same_training(recipe: Recipe, folder: Path, data: dict[str, str]) -> bool:
    """Whether a folder holds a training, finished or not, of just this recipe on just this data."""
    lost = (folder / "train.json").is_file() and not (folder / "model").is_dir()
    if lost or not (folder / "recipe.yaml").is_file():
        return False
    try:
        same = important(Run.open(folder).recipe) == important(recipe)
    except UserError:  # a recipe of another version
        return False
    return same and all((folder / name).is_file() and sha256(folder / name) == own for name, own in data.items())


def _best(trained: list[tuple[Run, dict[str, Any]]]) -> tuple[Run, dict[str, Any]]:
    """The run with the lowest validation loss, and what building it took; the first where none was validated."""
    losses = [report["best_validation_loss"] for _, report in trained]
    place = min(range(len(trained)), key=lambda one: float("inf") if losses[one] is None else losses[one])
    run, report = trained[place]
    return run, {"seconds": report["seconds"], "peak_bytes": report["peak_memory_bytes"]}


def _key(work: _Work, way: Way, trained: list[str]) -> str:
    """A hash of everything that decides what a way gives, so that a finished one is known to be still the same."""
    recipe = work.recipe
    section = recipe.evaluate
    made = {
        "way": {**asdict(way), "label": ""},
        "model": recipe.model.model_dump(mode="json"),
        "prompt": recipe.prompt.model_dump(mode="json"),
        "answers": [section.max_new_tokens, section.decoding, section.batch, len(work.exam.tests)],
        "data": work.data,
        "trained": [important(tuned(recipe, name)) for name in trained],
        "instruction": work.instruction if way.before == "instruction" else "",
        "neighbours": recipe.study.neighbours if way.finder else 0,
    }
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def _finished(run: Run, way: Way, key: str) -> dict[str, Any] | None:
    name = f"ways/{way.name}.json"
    if not (run.folder / name).is_file():
        return None
    found: dict[str, Any] = run.read_json(name, "study")
    return {**found, "label": way.label} if found.get("key") == key else None


def _write(work: _Work, ways: dict[str, dict[str, Any]], left_out: dict[str, str]) -> Path:
    """The study for programs and for people."""
    recipe, run = work.recipe, work.run
    comparison = compared(ways, recipe.evaluate.resamples)
    raw = ("values", "tokens", "texts", "key")
    rows = {
        name: {key: value for key, value in way.items() if key not in raw} | comparison[name]
        for name, way in ways.items()
    }
    found = {
        "name": recipe.name,
        "model": recipe.model.base,
        "source": Path(recipe.data.source).name,
        "trained_on": len(work.sources),
        "questions": len(work.exam.tests),
        "answer_tokens": recipe.evaluate.max_new_tokens,
        "alone": min(ALONE, len(work.exam.tests)),
        "instruction": work.instruction if "instruction" in ways else "",
        "ways": rows,
        "verdict": asdict(verdict(rows, len(work.exam.tests))),
        "left_out": left_out,
        "notes": _notes(recipe, rows),
        "environment": environment.describe(),
        "recipe": recipe.model_dump(mode="json"),
    }
    examples = [
        {
            "question": asked.question,
            "row": asked.row,
            "reference": asked.reference,
            "answers": {name: way["texts"][place] for name, way in ways.items()},
        }
        for place, asked in enumerate(work.exam.tests[: reporting.EXAMPLES])
    ]
    run.write_json("study.json", found)
    for name, picture in reporting.pictures(found).items():
        run.write_text(f"figures/{name}.svg", figures.alone(picture))
    return run.write_text("study.html", reporting.page(found, examples))


def _notes(recipe: Recipe, rows: dict[str, dict[str, Any]]) -> list[str]:
    """What was left out of prompts, said plainly."""
    short = {way["label"]: way["proposed"] - way["taken"] for way in rows.values() if way["taken"] < way["proposed"]}
    if not short:
        return []
    counts = ", ".join(f"{count:,} of {label}" for label, count in short.items())
    return [
        f"Too long for a prompt of {room(recipe):,} tokens, and left out whole: {counts}. A prompt has what "
        "model.max_length leaves beside evaluate.max_new_tokens."
    ]
