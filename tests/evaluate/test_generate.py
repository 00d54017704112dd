from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from residency.evaluate.generate import CANDIDATES, GREEDY, answer, likelihoods
from residency.models import load_tokenizer
from residency.prompts import Example, Prompt
from residency.recipe import ModelSection, PromptSection

QUESTIONS = ["Why?", "What should my mother do about a rash that itches at night?", "How long?", "A cold on day 3?"]


@pytest.fixture(params=["llama_folder", "neox_folder"])
def model(request: pytest.FixtureRequest) -> Any:
    folder: Path = request.getfixturevalue(request.param)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # Random weights near zero say the same token for ever; larger ones make answers differ, and some of them stop.
    torch.manual_seed(4)
    for parameter in loaded.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.35)
    return loaded


@pytest.fixture
def prompt(model: Any) -> Prompt:
    return Prompt.build(PromptSection(), load_tokenizer(ModelSection(base=model.name_or_path)))


def asked(prompt: Prompt) -> list[list[int]]:
    return [prompt.prompt_ids(question) for question in QUESTIONS]


@pytest.mark.parametrize("decoding", CANDIDATES, ids=lambda decoding: decoding.name)
@pytest.mark.parametrize("batch", [4, 3])
def test_answers_in_batches_are_those_of_one_at_a_time(model: Any, prompt: Prompt, decoding: Any, batch: int) -> None:
    found = answer(model, prompt, asked(prompt), decoding, max_new_tokens=24, batch=batch)
    for question, given in zip(QUESTIONS, found.answers, strict=True):
        ids = torch.tensor([prompt.prompt_ids(question)])
        config = GenerationConfig(
            max_new_tokens=24, do_sample=False, eos_token_id=prompt.stop_ids, pad_token_id=0, **decoding.settings()
        )
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, ids.shape[1] :]
        stopped = int(alone[-1]) in prompt.stop_ids
        kept = alone[:-1] if stopped else alone
        assert (given.stopped, given.tokens) == (stopped, len(kept))
        assert given.text == prompt.decode(kept.tolist())


def test_the_models_own_settings_do_not_leak_into_a_decoding(model: Any, prompt: Prompt) -> None:
    before = answer(model, prompt, asked(prompt), GREEDY, max_new_tokens=24, batch=4)
    model.generation_config.repetition_penalty = 3.0
    after = answer(model, prompt, asked(prompt), GREEDY, max_new_tokens=24, batch=4)
    assert before.answers == after.answers
    assert model.generation_config.repetition_penalty == 3.0


def test_an_answer_that_stops_holds_no_end_token(model: Any, prompt: Prompt) -> None:
    # A head that always says "end": every answer is empty and stops.
    head = model.get_output_embeddings()
    model.get_input_embeddings().weight.data.clamp_(-0.1, 0.1)
    with torch.no_grad():
        hook = head.register_forward_hook(
            lambda _module, _inputs, logits: logits.index_fill(-1, torch.tensor(prompt.stop_ids), 1e4)
        )
    found = answer(model, prompt, asked(prompt)[:2], GREEDY, max_new_tokens=5, batch=2)
    hook.remove()
    assert [(given.text, given.tokens, given.stopped) for given in found.answers] == [("", 0, True)] * 2


def test_likelihoods_are_plain_cross_entropy_example_by_example(model: Any) -> None:
    examples = [Example(tuple(range(3, 30)), 5), Example(tuple(range(50, 60)), 0), Example((9, 10), 1)]
    for tokens in (8, 1000):
        for example, (nll, count) in zip(examples, likelihoods(model, examples, tokens), strict=True):
            ids = torch.tensor([example.input_ids])
            labels = ids.clone()
            labels[:, : example.learn_from] = -100
            with torch.no_grad():
                expected = float(model(ids, labels=labels).loss) * example.learnt
            assert count == example.learnt
            assert nll == pytest.approx(expected, rel=1e-4)


def test_progress_counts_tokens_over_all_batches(model: Any, prompt: Prompt) -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    answer(model, prompt, asked(prompt), GREEDY, max_new_tokens=6, batch=2, tell=tell)
    assert {total for _, total in told} == {12}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
