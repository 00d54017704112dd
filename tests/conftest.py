"""Small real models and data that the tests share: a GPT-NeoX and a chat Llama of some thousand parameters."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from residency.progress import Silent

# The same examples each time: no change is blamed for an older fault. HYPOTHESIS_PROFILE=explore looks further.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.register_profile("explore", max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
signal.signal(signal.SIGINT, signal.default_int_handler)  # processes that share the tests out begin without it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and two threads in two processes starve each other
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may wait for a hub
os.environ["TOKENIZERS_PARALLELISM"] = "false"

NEVER_SKIPPED = tuple(filter(None, os.environ.get("RESIDENCY_SKIP_NOTHING", "").split(",")))
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOPICS = ("fever", "cough", "rash", "sore knee", "cold", "stiff neck", "dizzy spell", "dry eye", "burn", "ear ache")
PEOPLE = ("a child", "an adult", "my mother", "a nurse", "a runner", "my neighbour")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", type=Path, help="File to write each injected fault and what came of it to.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[pytest.TestReport]:
    """What a test injected goes with its report, from the process that ran it to the one that counts."""
    report: pytest.TestReport = yield
    _never_skipped(report)
    mark = item.get_closest_marker("fault")
    if mark and report.when == "call":
        name, where, outcome = mark.args
        report.user_properties.append(("fault", {"fault": name, "where": where, "outcome": outcome}))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[pytest.CollectReport]:
    """A file that needs what is not installed is skipped as a whole."""
    report: pytest.CollectReport = yield
    _never_skipped(report)
    return report


def _never_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and any(part in report.nodeid for part in NEVER_SKIPPED):
        report.outcome, report.longrepr = "failed", f"skipped, where nothing may be: {report.longrepr}"


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--reliability")
    if file and not hasattr(config, "workerinput"):
        file.write_text("")
        config.pluginmanager.register(Counted(file))


class Counted:
    """Writes a line for each test of a fault: how often it was injected, survived, and lost something.

    A test says how often by `record_property("injected", n)`, once where it says nothing.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = dict(report.user_properties)
        if "fault" not in told or report.skipped:
            return
        injected = int(told.get("injected", 1))  # type: ignore[call-overload]
        row = {**told["fault"], "injected": injected, "survived": injected if report.passed else 0}  # type: ignore[dict-item]
        row |= {"lost": injected - row["survived"], "test": report.nodeid.partition("[")[0]}
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


class StopsAt(Silent):
    """The user presses Ctrl-C at a step of training."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, task: str, done: int, total: int, detail: str = "") -> None:
        if task == "Training" and done == self.at:
            raise KeyboardInterrupt


def dialogues(count: int = 60) -> list[dict[str, str]]:
    """Rows in the reference's columns, each another case."""
    rows = []
    for number in range(count):
        topic, person = TOPICS[number % len(TOPICS)], PEOPLE[number // len(TOPICS) % len(PEOPLE)]
        rows.append(
            {
                "Description": f"Q. What should {person} do about a {topic} on day {number}?",
                "Patient": f"It is about {person}; the {topic} began {number} days ago.",
                "Doctor": f"A {topic} in {person} needs rest and water for {number} days. See a doctor if it is worse.",
            }
        )
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _tokenizer(folder: Path, chat: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] if chat else ["<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((value for row in dialogues() for value in row.values()), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>" if chat else "<|endoftext|>",
        pad_token="<|endoftext|>" if chat else None,
    )
    if chat:
        wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture(scope="session")
def neox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-NeoX (the architecture of pythia) with its tokenizer, in a hub model's files; no padding token."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    folder = tmp_path_factory.mktemp("hub") / "pythia-tiny"
    tokenizer = _tokenizer(folder, chat=False)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a chat template, tied embeddings and grouped attention, in a hub model's files."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("hub") / "llama-tiny"
    tokenizer = _tokenizer(folder, chat=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty dialogues in the reference's columns, as JSONL."""
    return write_jsonl(tmp_path_factory.mktemp("data") / "dialogues.jsonl", dialogues())


@pytest.fixture
def small_recipe(llama_folder: Path, data_file: Path) -> dict[str, Any]:
    """A recipe that trains the small chat model in seconds."""
    return {
        "name": "small",
        "data": {"source": str(data_file), "question": "Description", "answer": "Doctor", "validation": 0.1},
        "model": {"base": str(llama_folder), "max_length": 256},
        "train": {"epochs": 1, "examples_per_step": 8, "learning_rate": 0.01},
        "evaluate": {"questions": 4, "max_new_tokens": 12, "resamples": 100},
    }
