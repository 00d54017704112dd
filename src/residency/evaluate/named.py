"""What `--against` names: a run, a checkpoint, a model, a GGUF file or an endpoint, as a system that can be asked."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from residency import models
from residency.endpoint import Endpoint, addressed, key
from residency.errors import UserError
from residency.evaluate.partial import key as hash_of
from residency.evaluate.systems import Local, Remote, System
from residency.progress import Progress
from residency.prompts import Prompt
from residency.recipe import ModelSection, PromptSection, Recipe
from residency.workspace import MANIFEST, RECIPE, Run, sha256

KEY_ENV = "OPENAI_API_KEY"
ADAPTER = "adapter_config.json"
CHANGES_THE_BASE = ("pissa", "olora")  # while they train, an adapter does not fit the base as it is
MODEL_FILES = {".safetensors", ".bin", ".json", ".txt", ".model", ".jinja"}
NOT_WEIGHTS = {"generation_config.json", "trainer_state.json", MANIFEST}  # the decoding is chosen anew each time


def own(recipe: Recipe, run: Run, prompt: Prompt, progress: Progress) -> tuple[System, System]:
    """The run's base and its tuned model.

    Raises:
        UserError: the run was not trained.
    """
    folder = run.need("model", "train")
    base = Local(
        "base",
        "base",
        recipe.model.base,
        prompt,
        load=lambda dtype: models.load_base(recipe.model, dtype, progress=progress),
        weights=lambda: weights_of(recipe.model),
    )
    return base, Local("tuned", "tuned", "model", prompt, **_saved(folder))


def others(names: Sequence[str], recipe: Recipe, prompt: Prompt, progress: Progress, key_env: str) -> list[System]:
    """A system for each name, told apart from base, tuned and each other by its own.

    Raises:
        UserError: there is no such run, file or model, an address is none, or the environment has no key for it.
    """
    found: list[System] = []
    taken = {"base", "tuned"}
    for named in names:
        system = _find(named, recipe, prompt, progress, key_env)
        plain, number = system.name, 1
        while system.name in taken:
            number += 1
            system.name = f"{plain} ({number})"
        taken.add(system.name)
        found.append(system)
    return found


def weights_of(section: ModelSection) -> Any:
    """What tells a model's weights from others: the hash of its files, or the commit of a hub's model."""
    where, gguf = models.locate(section)
    if gguf:
        return sha256(Path(where) / gguf)
    if Path(where).is_dir():
        return _hash(Path(where))
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(where, "config.json", revision=section.revision)
    return [where, section.revision, Path(cached).parent.name if isinstance(cached, str) else None]


def _find(named: str, recipe: Recipe, prompt: Prompt, progress: Progress, key_env: str) -> System:
    if named.startswith(("http://", "https://")):
        return _endpoint(named, recipe, prompt, key_env)
    folder = Path(named).expanduser()
    with _told(named):
        if (folder / RECIPE).is_file():
            return _run(named, Run.open(folder), recipe)
        above = _run_above(folder)
        if above and folder.name == "model":
            return _run(named, above, recipe)
        if above and (folder.parent.name == "checkpoints" or (folder / ADAPTER).is_file()):
            return _checkpoint(named, folder, above, recipe, progress)
        return _model(named, recipe, progress)


def _run(named: str, run: Run, recipe: Recipe) -> System:
    """Another run's tuned model, asked as it was trained."""
    folder, theirs = run.need("model", "train"), run.recipe
    prompt, notes = _prompt(theirs.prompt, recipe.prompt.system, models.load_tokenizer(theirs.model))
    name = run.folder.resolve().name
    learnt_from = run.folder / "data" / "train.jsonl"
    return Local(name, "run", named, prompt, **_saved(folder), notes=notes, learnt_from=learnt_from)


def _checkpoint(named: str, folder: Path, run: Run, recipe: Recipe, progress: Progress) -> System:
    """A checkpoint, or an adapter, of a run: whole weights, or an adapter on the run's base."""
    theirs = run.recipe
    if folder.parent.name == "checkpoints":
        _refuse_damaged(named, folder)
    prompt, notes = _prompt(theirs.prompt, recipe.prompt.system, models.load_tokenizer(theirs.model))
    ways = _saved(folder)
    if (folder / ADAPTER).is_file():
        if theirs.train.lora.variant in CHANGES_THE_BASE and folder.parent.name == "checkpoints":
            raise UserError(
                f"--against {named}: an adapter that fits a base changed by {theirs.train.lora.variant}",
                "a checkpoint of another variant of LoRA",
                "train to the end and name the run",
            )
        if theirs.train.method == "qlora":
            notes = [*notes, "learnt on weights packed to 4 bits, put on the base's own here"]
        section = theirs.model
        ways = {
            "load": lambda dtype: models.load_adapted(section, folder, dtype),
            "weights": lambda: [weights_of(section), _hash(folder)],
        }
    name = f"{run.folder.resolve().name} {folder.resolve().name}"
    learnt_from = run.folder / "data" / "train.jsonl"
    return Local(name, "checkpoint", named, prompt, **ways, notes=notes, learnt_from=learnt_from)


def _model(named: str, recipe: Recipe, progress: Progress) -> System:
    """A transformers folder, a GGUF file, a built-in model or one of the hub."""
    section = ModelSection(base=named)
    tokenizer = models.load_tokenizer(section, progress)
    template = "auto"
    if not getattr(tokenizer, "chat_template", None) and recipe.prompt.template not in ("auto", "chat"):
        template = recipe.prompt.template  # the run's own stands in where a model brings none
    prompt, notes = _prompt(PromptSection(template=template), recipe.prompt.system, tokenizer)
    return Local(
        Path(named).name.removesuffix(".gguf"),
        "model",
        named,
        prompt,
        load=lambda dtype: models.load_base(section, dtype, progress=progress),
        weights=lambda: weights_of(section),
        notes=notes,
    )


def _endpoint(named: str, recipe: Recipe, prompt: Prompt, key_env: str) -> System:
    address, model = addressed(named, "--against")
    return Remote(
        model.rpartition("/")[2],
        Endpoint(address, model, _key(address, key_env), key_env, temperature=0, setting="--against"),
        recipe.prompt.system,
        prompt,
    )


def _key(address: str, variable: str) -> str | None:
    """The key in the environment; a server on this machine may need none."""
    if not os.environ.get(variable, "").strip():
        if _is_here(urlsplit(address).hostname or ""):
            return None
        raise UserError(
            f"--against {address}: {variable} is not set in the environment",
            "the endpoint's key",
            f"export {variable}=..., or name another variable with --key-env",
        )
    return key(variable, "--key-env")


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _prompt(section: PromptSection, system: str | None, tokenizer: Any) -> tuple[Prompt, list[str]]:
    """A system's own way to be asked, with the run's system message where its template has a place for one."""
    asked = section.model_copy(update={"system": system})
    try:
        return Prompt.build(asked, tokenizer), []
    except UserError:
        if not system:
            raise
    plain = Prompt.build(section.model_copy(update={"system": None}), tokenizer)
    return plain, ["asked without the system message: its template has no place for it"]


def _saved(folder: Path) -> dict[str, Any]:
    """How a folder that training left is loaded, and what tells its weights from others."""
    return {"load": lambda dtype: models.load_tuned(folder, dtype), "weights": lambda: _hash(folder)}


def _hash(folder: Path) -> str:
    """Of what decides a model's answers among the files of its folder."""
    files = (path for path in sorted(folder.iterdir()) if path.suffix in MODEL_FILES and path.name not in NOT_WEIGHTS)
    return hash_of([[path.name, sha256(path)] for path in files])


def _run_above(folder: Path) -> Run | None:
    """The run that a folder lies in: `RUN/model`, `RUN/adapter`, `RUN/checkpoints/checkpoint-40`."""
    for above in list(folder.resolve().parents)[:2]:
        if folder.is_dir() and (above / RECIPE).is_file():
            return Run.open(above)
    return None


def _refuse_damaged(named: str, checkpoint: Path) -> None:
    if not (checkpoint / MANIFEST).is_file():
        raise UserError(f"--against {named}: {MANIFEST} is missing: it was cut short", "a whole checkpoint")
    faults = Run(checkpoint).verify()
    if faults:
        raise UserError(f"--against {named}: a damaged checkpoint ({faults[0]})", "a whole one")


@contextmanager
def _told(named: str) -> Iterator[None]:
    """Errors about a recipe's model, said of the option that named it."""
    try:
        yield
    except UserError as error:
        if not error.found.startswith("model.base "):
            raise
        expected = error.expected and f"a run folder, a checkpoint, a web address with #model, or {error.expected}"
        found = error.found.replace("model.base ", "--against ", 1)
        raise UserError(found, expected, error.fix.replace("set model.base to", "name")) from None
