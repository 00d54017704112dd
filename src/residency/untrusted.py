"""What comes with somebody else's model, looked at before it is used: its weights, its chat template, its code."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateSyntaxError

from residency.errors import UserError, listed

SAFE = (".safetensors", ".safetensors.index.json", ".gguf")
PICKLES = (".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")  # torch unpickles these
OTHERS = (".h5", ".msgpack")  # of other frameworks
_DUNDER = re.compile(r"__\w+")


def refuse_pickles(folder: Path, name: str) -> None:
    """Nothing, where a folder has its weights as safetensors, or has none at all; `name` is what the error calls it.

    Unpickling a file runs whatever code it names, so that weights in this form are not loaded, not even by torch's
    restricted loader, which has had holes.

    Raises:
        UserError: the only weights are pickles.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if any(name.endswith(SAFE) for name in names):
        return
    pickles = [name for name in names if name.endswith((*PICKLES, *OTHERS)) and "training_args" not in name]
    if pickles:
        raise UserError(
            f"{name}: its weights are in {listed(pickles, 3)}, and a file of this kind can run code when it is loaded",
            "model.safetensors",
            "take a copy with safetensors, or convert it where nothing can be lost",
        )


def stay_with_the_weights_of_the_hub() -> None:
    """Where a hub model has no safetensors, transformers would take them from a bot's pull request that nobody read."""
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


def options_of_code(trusted: bool, revision: str | None, where: str) -> dict[str, Any]:
    """What to hand to `from_pretrained` so that no other code runs than that of the commit which the recipe names.

    A configuration may name code of another repository: the same commit is asked for there, and not found.

    Raises:
        UserError: `where` is a folder, whose code no revision holds.
    """
    if not trusted:
        return {"trust_remote_code": False}  # left out, transformers would ask at the keyboard
    if Path(where).is_dir():
        raise UserError(
            f"model.trust_remote_code: model.base {where} is a folder, and no revision says what code lies in it",
            "a hub repository OWNER/NAME with its commit as model.revision",
            "install the model's code as a package of your own, or leave trust_remote_code out",
        )
    return {"trust_remote_code": True, "code_revision": revision}


def refuse_reaching(template: Any) -> None:
    """Nothing, where a chat template stays with its messages. transformers renders it in Jinja's sandbox besides.

    `template` is a text, or several by their names. The sandbox makes nothing of `x.__class__` alone and says so only
    when something is done with it; a template that has such a name in it is no honest one.

    Raises:
        UserError: it names an attribute such as `__class__`.
    """
    for text in template.values() if isinstance(template, dict) else [template]:
        reached = _reached(str(text))
        if reached:
            raise UserError(
                f"prompt.template: the tokenizer's chat template reaches for {reached}, which is no part of a message",
                "a template that puts messages into their places",
                "do not use this model before you know why, or set prompt.template: question-answer",
            )


def _reached(template: str) -> str:
    """The first name, used as a name or a key, that begins with two underscores; empty where there is none."""
    try:
        tokens = [(kind, text) for _, kind, text in Environment().lex(template) if kind != "whitespace"]
    except TemplateSyntaxError:  # transformers says what is wrong with it
        return ""
    for place, (kind, text) in enumerate(tokens):
        before = tokens[max(place - 2, 0) : place]
        key = kind == "string" and (("operator", "[") in before[-1:] or ("name", "attr") in before)
        if (kind == "name" or key) and _DUNDER.fullmatch(text.strip("'\"")):
            return text.strip("'\"")
    return ""
