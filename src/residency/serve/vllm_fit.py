"""What vLLM is asked for only where it can do it: said in a line, before anything loads."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from typing import Any

from residency import models, untrusted
from residency.errors import UserError
from residency.workspace import Run

# It would report its use to its makers, and its log would stand where the one line of the address does.
SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def refuse(run: Run, *, compare: bool) -> None:
    """Nothing, where vLLM can serve the run's model here; imports no more of vLLM than says on what it works.

    Raises:
        UserError: it can't, or it is not installed.
    """
    if find_spec("vllm") is None:
        raise _unfit("vLLM is not installed", "pip install 'residency[vllm]'")
    if compare:
        raise _unfit("with --compare two models would share a process, and vLLM takes one", "leave --compare out")
    _weights(run)
    if run.chosen_decoding().get("no_repeat_ngram_size"):
        raise _unfit("the run's decoding lets no run of words come twice (no_repeat_ngram_size), which vLLM has not")
    _machine()


def _weights(run: Run) -> None:
    folder = run.need("model", "train")
    if (folder / models.BASE).is_file():
        raise _unfit("the run has learnt embeddings before its prompts (prompt-tuning), which vLLM can't be given")
    untrusted.refuse_pickles(folder, str(folder))
    if any(folder.glob("*.gguf")) or not any(folder.glob("*.safetensors")):
        raise _unfit(f"no safetensors in {folder}, which is what vLLM is given")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    if packed := config.get("quantization_config"):
        raise _unfit(f"the weights in {folder} are packed ({packed.get('quant_method', 'quantised')})")


def _machine() -> None:
    """vLLM's own word on where it can work: a GPU, or the processor where it is its build for that."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise _unfit(f"vLLM can't be imported ({str(error)[:150]})", "pip install 'residency[vllm]'") from error
    if not (current_platform.is_cuda_alike() or current_platform.is_cpu()):
        raise _unfit("vLLM finds no GPU with CUDA here")


def _unfit(why: str, fix: str = "leave --engine vllm out") -> UserError:
    return UserError(f"--engine vllm: {why}", fix=fix)
