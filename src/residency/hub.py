"""The hub held to a time: what is loaded from it is fetched first, with a bounded number of tries.

huggingface_hub takes up half a file where it broke off, and gives up after five tries of ten seconds each
(`HF_HUB_DOWNLOAD_TIMEOUT`). But what it asks beside files has no limit, and transformers asks anew for each part of a
model: a hub that accepts a connection and says nothing would be waited for without end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")  # configuration, tokenizer, a model's own code
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
TRIES = 3
PATIENCE = 6  # times the limit of a download, for what has none of its own: an upload's answers, a list of files
AT_ONCE = 4  # files


def fetched(repo: str, revision: str | None, *, weights: bool) -> str | None:
    """The commit of a model that lies in the hub's cache now, with its weights where they are asked for.

    None where loading has to look for itself: the hub is switched off, or the weights are no safetensors.

    Raises:
        OSError: the hub can't be reached, hangs, breaks off or refuses, and the cache does not hold the model.
    """
    from huggingface_hub import try_to_load_from_cache

    if offline():
        return None
    try:
        about = reached(repo, "model", revision)
    except OSError:
        cached = try_to_load_from_cache(repo, "config.json", revision=revision)
        if not isinstance(cached, str):
            raise
        return Path(cached).parent.name
    names = [one.rfilename for one in about.siblings or [] if "/" not in one.rfilename]
    small = [name for name in names if name.endswith(SMALL)]
    _fetch(repo, about.sha, small)
    _fetch(repo, revision, small[:1])  # by the branch's name: the cache then tells its commit where the hub is away
    if not weights:
        return str(about.sha)
    parts = _parts(repo, about.sha) if INDEX in names else {SINGLE}
    if not parts <= set(names):
        return None
    _fetch(repo, about.sha, sorted(parts))
    return str(about.sha)


def reached(repo: str, kind: Literal["model", "dataset"], revision: str | None) -> Any:
    """What the hub says of a repository: its commit as `sha`, its files as `siblings`. A few tries, each with a limit.

    Raises:
        OSError: it says nothing in time, or an error.
    """
    from huggingface_hub import HfApi, constants

    patient()
    for tried in range(TRIES):
        try:
            return HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if tried == TRIES - 1 or (status is not None and status < 500 and status != 429):
                raise OSError(reason(error)) from error
        time.sleep(2**tried)
    raise AssertionError("the last try returns or raises")


def patient() -> None:
    """Give this process's requests to the hub a limit, where the library gives them none."""
    from huggingface_hub import constants, get_session

    get_session().timeout = PATIENCE * constants.HF_HUB_DOWNLOAD_TIMEOUT


def offline() -> bool:
    """Whether the hub is switched off (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def reason(error: BaseException) -> str:
    """What went wrong at the bottom of an error, in a line: libraries wrap it in advice about other things."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return " ".join(str(error).split()) or type(error).__name__


def _parts(repo: str, commit: str) -> set[str]:
    from huggingface_hub import hf_hub_download

    index = Path(hf_hub_download(repo, INDEX, revision=commit))
    return set(json.loads(index.read_text("utf-8"))["weight_map"].values())


def _fetch(repo: str, commit: str | None, names: Iterable[str]) -> None:
    from huggingface_hub import hf_hub_download

    def one(name: str) -> None:
        try:
            hf_hub_download(repo, name, revision=commit)
        except Exception as error:
            raise OSError(f"{name}: {reason(error)}") from error

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(one, names))
