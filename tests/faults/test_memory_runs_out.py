"""Memory that runs out in a step: the micro-batches are halved, and the step goes on with the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments

from residency.errors import UserError
from residency.prompts import Example
from residency.train.trainer import ResidencyTrainer

EXAMPLES = [Example(tuple((7 * n + place) % 380 + 3 for place in range(6 + 5 * n)), 2 + n % 4) for n in range(8)]
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 "
    "bytes. Error code 12 (Cannot allocate memory)"
)
RAN_OUT = """
import json, resource, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
from residency.prompts import Example
from residency.train.trainer import ResidencyTrainer

torch.set_num_threads(1)
torch.manual_seed(0)
sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 4096}
model = LlamaForCausalLM(LlamaConfig(vocab_size=2_000, **sizes))
examples = [Example(tuple((31 * n + 7 * place) % 2_000 for place in range(240 - n)), 1) for n in range(16)]
said = []

def step(limited):
    trainer = ResidencyTrainer(
        model=model, args=TrainingArguments(output_dir=sys.argv[1], use_cpu=True, report_to="none", max_steps=1),
        train_dataset=examples, validation=[], pad_id=0, tokens_per_batch=16 * 240, tell=said.append,
        packs=True,
    )
    batch = trainer.data_collator(examples)
    model.zero_grad()
    if limited:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 200 * 2**20, resource.RLIM_INFINITY))
    loss = float(trainer.training_step(trainer.model, batch))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return loss, torch.cat([weight.grad.flatten() for weight in model.parameters()])

short, _ = step(True)  # before anything was kept by the allocator
limited = said[:]
loss, short_gradient = step(True)
whole, gradient = step(False)
apart = float(torch.linalg.norm(short_gradient - gradient) / torch.linalg.norm(gradient))
print(json.dumps({"said": limited, "short": short, "whole": whole, "apart": apart}))
"""


def trainer_of(folder: Path, tmp_path: Path, tokens_per_batch: int = 240) -> tuple[ResidencyTrainer, list[str]]:
    said: list[str] = []
    trainer = ResidencyTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager"),
        args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=1),
        train_dataset=EXAMPLES, validation=[], pad_id=0, tokens_per_batch=tokens_per_batch, tell=said.append,
        packs=True,
    )  # fmt: skip
    return trainer, said


def gradient(trainer: ResidencyTrainer) -> tuple[float, torch.Tensor]:
    trainer.model.zero_grad()
    loss = float(trainer.training_step(trainer.model, trainer.data_collator(EXAMPLES)))
    return loss, torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])


def short_of_memory(trainer: ResidencyTrainer, tokens: int, error: Exception, late: bool) -> None:
    """From so many tokens on a micro-batch finds no memory, in its backward pass where `late`."""

    def fail(*_: Any) -> None:
        raise error

    def look(_module: Any, _arguments: Any, inputs: dict[str, Any], _output: Any) -> None:
        if inputs["input_ids"].numel() >= tokens:
            fail()

    def look_back(_module: Any, inputs: tuple[torch.Tensor], _output: Any) -> None:
        if inputs[0].shape[:-1].numel() >= tokens and inputs[0].requires_grad:
            inputs[0].register_hook(fail)

    if late:
        trainer.model.model.layers[0].register_forward_hook(look_back)
    else:
        trainer.model.register_forward_hook(look, with_kwargs=True)


@pytest.mark.fault("out of memory in a step", "train", "smaller micro-batches, the same loss and gradient")
@pytest.mark.parametrize("error", [CUDA, CPU, MemoryError()], ids=["cuda", "cpu", "python"])
@pytest.mark.parametrize("late", [False, True], ids=["forward", "backward"])
def test_a_step_that_finds_too_little_memory_goes_on_in_smaller_parts(
    error: Exception, late: bool, llama_folder: Path, tmp_path: Path
) -> None:
    loss, expected = gradient(trainer_of(llama_folder, tmp_path)[0])
    trainer, said = trainer_of(llama_folder, tmp_path)
    assert max(len(batch["labels"]) for batch in trainer.data_collator(EXAMPLES)["micro_batches"]) == 5
    short_of_memory(trainer, 60, error, late)
    found, own = gradient(trainer)
    assert found == pytest.approx(loss, rel=1e-6)
    assert torch.linalg.norm(own - expected) / torch.linalg.norm(expected) < 1e-6
    assert said and "Too little memory in step 1" in said[0]
    told = len(said)
    assert gradient(trainer)[0] == pytest.approx(loss, rel=1e-6)
    assert len(said) == told, "what fitted is kept for the steps after it"
    assert trainer.counts.total_tokens == 2 * sum(map(len, EXAMPLES)), "a try that failed is not counted"


@pytest.mark.fault("one example alone does not fit", "train", "one line that says what to lower; checkpoints stay")
def test_an_example_that_does_not_fit_alone_is_one_line(llama_folder: Path, tmp_path: Path) -> None:
    trainer, _ = trainer_of(llama_folder, tmp_path)
    short_of_memory(trainer, 1, CUDA, late=False)
    with pytest.raises(
        UserError, match=r"out of memory with micro-batches of one example each.*lower model.max_length"
    ):
        gradient(trainer)


def test_other_errors_of_a_step_are_no_shortage(llama_folder: Path, tmp_path: Path) -> None:
    trainer, said = trainer_of(llama_folder, tmp_path)
    short_of_memory(trainer, 60, RuntimeError("size mismatch"), late=False)
    with pytest.raises(RuntimeError, match="size mismatch"):
        gradient(trainer)
    assert said == []


@pytest.mark.fault(
    "the system gives a step no more memory", "train", "smaller micro-batches, the same loss and gradient"
)
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_step_goes_on_where_the_system_itself_gives_no_more_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RAN_OUT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["said"], "the limit was no limit"
    assert found["short"] == pytest.approx(found["whole"], rel=1e-6)
    assert found["apart"] < 1e-5
