"""The stage: from `model/` of a run to `export/`, each kind whole or absent."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from residency import models
from residency.errors import UserError
from residency.export import gguf, hub, ollama
from residency.export.card import card
from residency.export.form import Form
from residency.progress import Progress, Silent
from residency.prompts import Prompt
from residency.workspace import Run, replacing, sha256

Kind = Literal["safetensors", "gguf", "ollama", "hub"]
KINDS: tuple[str, ...] = get_args(Kind)
CHECK = "check.json"  # beside a GGUF file: which one, of which model, and what was found when it was read again
SHOWN = 3  # answers in the card
ASKED = 8  # validation questions that a GGUF file is checked with


@dataclass(frozen=True)
class Exported:
    """Where it lies, what was checked or sent, and what to type next."""

    path: Path
    about: dict[str, Any]
    next: list[str]


def export(
    run: Run,
    prompt: Prompt,
    to: Kind,
    *,
    weights: gguf.Type = "f16",
    repo: str | None = None,
    private: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a run's model where others can use it, into `export/` of the run.

    Raises:
        UserError: the run was not trained, its model can't be merged, or what the kind needs is not installed.
    """
    progress = progress or Silent()
    model = run.need("model", "train")
    if (model / models.BASE).is_file():
        raise UserError(
            "export: a prompt-tuned model has no weights of its own", "another method", "`residency chat` and Python"
        )
    if to == "safetensors":
        return _safetensors(run, prompt)
    if to == "gguf":
        return _gguf(run, prompt, weights, progress)
    if to == "ollama":
        return _ollama(run, prompt, weights, progress)
    return _hub(run, prompt, repo, private, dry_run)


def _safetensors(run: Run, prompt: Prompt) -> Exported:
    target = run.path("export/safetensors")
    with replacing(target) as folder:
        shutil.copytree(run.folder / "model", folder)
        _own_template(folder, prompt)
        (folder / "README.md").write_text(card(run, _answers(run)), "utf-8")
    return Exported(
        target,
        {"bytes": sum(path.stat().st_size for path in target.rglob("*") if path.is_file())},
        [f"python -c \"from transformers import pipeline; print(pipeline('text-generation', '{target}'))\""],
    )


def _gguf(run: Run, prompt: Prompt, weights: gguf.Type, progress: Progress) -> Exported:
    folder = _safetensors(run, prompt).path
    target = run.path(f"export/gguf/{run.recipe.name}-{weights}.gguf")
    progress.say(f"Converting to GGUF, {weights}")
    with replacing(target) as temporary:
        part = temporary.with_name(f"{temporary.name}.gguf")  # by its ending the readers know it
        try:
            gguf.convert(folder, part, weights)
            progress.say(f"Reading it again, {ASKED} questions")
            checks = gguf.check(models.load_tuned(run.folder / "model"), part, prompt, _questions(run))
            part.replace(temporary)
        finally:
            part.unlink(missing_ok=True)
    for line in gguf.said(checks):
        progress.say(line)
    about = {"file": target.name, "model": model_hash(run), "checks": gguf.as_dicts(checks)}
    run.write_json(f"export/gguf/{CHECK}", about)
    return Exported(
        target,
        {"bytes": target.stat().st_size, "checks": gguf.as_dicts(checks)},
        _llama_cpp(run, target),
    )


def _llama_cpp(run: Run, weights: Path) -> list[str]:
    """What to type next: llama.cpp's programs under the decoding that the evaluation chose."""
    penalty = run.chosen_decoding().get("repetition_penalty", 1.0)
    reach = f" --repeat-penalty {penalty:g} --repeat-last-n {run.recipe.model.max_length}"  # -1 is not taken any more
    decoding = "--temp 0" + (reach if penalty != 1 else "")
    system = f" --system-prompt {shlex.quote(run.recipe.prompt.system)}" if run.recipe.prompt.system else ""
    return [f"llama-cli -m {weights} {decoding}{system}", f"llama-server -m {weights} {decoding}"]


def _ollama(run: Run, prompt: Prompt, weights: gguf.Type, progress: Progress) -> Exported:
    file = run.folder / "export" / "gguf" / f"{run.recipe.name}-{weights}.gguf"
    if not is_of(run, file):
        _gguf(run, prompt, weights, progress)
    text = ollama.modelfile(run.recipe, prompt, run.chosen_decoding(), file.name)
    target = run.write_text("export/gguf/Modelfile", text)
    name = run.recipe.name.lower()
    return Exported(target, {}, [f"ollama create {name} -f {target}", f"ollama run {name}"])


def is_of(run: Run, file: Path) -> bool:
    """Whether a GGUF file was made of the run's model as it is now. Its date can't tell: a clock may have gone back."""
    if not file.is_file() or not (file.parent / CHECK).is_file():
        return False
    found = json.loads((file.parent / CHECK).read_text("utf-8"))
    return (found.get("file"), found.get("model")) == (file.name, model_hash(run))


def model_hash(run: Run) -> str:
    """A hash of every file in `model/`."""
    files = sorted(path for path in (run.folder / "model").rglob("*") if path.is_file())
    return hashlib.sha256("".join(f"{path.name} {sha256(path)}\n" for path in files).encode()).hexdigest()


def _hub(run: Run, prompt: Prompt, repo: str | None, private: bool, dry_run: bool) -> Exported:
    if not repo:
        raise UserError("export --to hub: no repository", "--repo USER/NAME")
    folder = _safetensors(run, prompt).path
    sent = hub.upload(folder, repo, private=private, dry_run=dry_run)
    about = {"repo": sent.repo, "private": sent.private, "files": sent.files, "address": sent.address}
    following = f'AutoModelForCausalLM.from_pretrained("{repo}")'
    if dry_run:
        following = f"residency export {run.folder} --to hub --repo {repo}   # without --dry-run"
    return Exported(folder, about, [following])


def _own_template(folder: Path, prompt: Prompt) -> None:
    """A model that learnt another template than the tokenizer's own must not be asked in that one."""
    if prompt.template == "chat":
        return
    (folder / "chat_template.jinja").write_text(Form.of(prompt).jinja(), "utf-8")
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text("utf-8"))
    config.pop("chat_template", None)
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _questions(run: Run) -> list[str]:
    found = [dialogue.question for dialogue in run.dialogues("validation")[:ASKED] if dialogue.question]
    return found or [dialogue.question for dialogue in run.dialogues("train")[:ASKED]]


def _answers(run: Run) -> list[dict[str, Any]]:
    if not (run.folder / "evaluation" / "answers.jsonl").is_file():
        return []
    return run.read_jsonl("evaluation/answers.jsonl", "evaluate")[:SHOWN]
