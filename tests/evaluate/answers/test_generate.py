from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GenerationConfig

from residency.evaluate.answers.generate import CANDIDATES, GREEDY, Answer, Answers, Decoding, answer, likelihoods
from residency.models import load_tokenizer
from residency.prompts import Example, Prompt
from residency.recipe import ModelSection, PromptSection
from residency.virtual import put_before

LIMIT = 16


def load(folder: Path) -> Any:
    """A model with random weights so large that its answers differ, and that some of them stop."""
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(4)
    for parameter in loaded.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.35)
    return loaded


@pytest.fixture(scope="module", params=["llama_folder", "neox_folder"])
def model(request: pytest.FixtureRequest) -> Any:
    return load(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def prompt(model: Any) -> Prompt:
    return Prompt.build(PromptSection(), load_tokenizer(ModelSection(base=model.name_or_path)))


def alone(model: Any, prompt: Prompt, ids: list[int], decoding: Decoding) -> Answer:
    """The answer that transformers gives when it is asked nothing else."""
    config = GenerationConfig(
        max_new_tokens=LIMIT, do_sample=False, eos_token_id=prompt.stop_ids, pad_token_id=0, **decoding.settings()
    )
    given = torch.tensor([ids])
    new = model.generate(given, attention_mask=torch.ones_like(given), generation_config=config)[0, len(ids) :].tolist()
    stopped = new[-1] in prompt.stop_ids
    kept = new[:-1] if stopped else new
    return Answer(prompt.decode(kept), len(kept), stopped)


QUESTIONS = ["Why?", "What should my mother do about a rash that itches at night?", "How long?", "A cold on day 3?"]


def asked(prompt: Prompt) -> list[list[int]]:
    return [prompt.prompt_ids(question) for question in QUESTIONS]


@pytest.mark.parametrize("decoding", CANDIDATES, ids=lambda decoding: decoding.name)
@pytest.mark.parametrize("batch", [4, 3])
def test_answers_in_batches_are_those_of_one_at_a_time(model: Any, prompt: Prompt, decoding: Any, batch: int) -> None:
    found = answer(model, prompt, asked(prompt), decoding, max_new_tokens=24, batch=batch)
    for question, own in zip(QUESTIONS, found.answers, strict=True):
        ids = torch.tensor([prompt.prompt_ids(question)])
        config = GenerationConfig(
            max_new_tokens=24, do_sample=False, eos_token_id=prompt.stop_ids, pad_token_id=0, **decoding.settings()
        )
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, ids.shape[1] :]
        stopped = int(alone[-1]) in prompt.stop_ids
        kept = alone[:-1] if stopped else alone
        assert (own.stopped, own.tokens) == (stopped, len(kept))
        assert own.text == prompt.decode(kept.tolist())


def test_the_models_own_settings_do_not_leak_into_a_decoding(
    model: Any, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answer(model, prompt, asked(prompt), GREEDY, max_new_tokens=24, batch=4)
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 3.0)
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


def test_progress_counts_tokens_over_all_answers_and_ends_at_the_total(model: Any, prompt: Prompt) -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    answer(model, prompt, asked(prompt), GREEDY, max_new_tokens=6, batch=2, tell=tell)
    assert {total for _, total in told} == {24}
    assert told[-1] == (24, 24)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.lists(st.integers(3, 380), min_size=1, max_size=40), min_size=1, max_size=7),
    st.integers(1, 8),
    st.sampled_from(CANDIDATES),
)
def test_any_prompts_in_any_batches_get_the_answers_of_one_at_a_time(
    model: Any, prompt: Prompt, prompts: list[list[int]], batch: int, decoding: Decoding
) -> None:
    found = answer(model, prompt, prompts, decoding, max_new_tokens=LIMIT, batch=batch)
    assert found.answers == [alone(model, prompt, ids, decoding) for ids in prompts]


def test_some_of_these_answers_stop_and_some_run_to_the_limit(llama_folder: Path) -> None:
    # Else the comparison above would say nothing about either.
    model = load(llama_folder)
    prompt = Prompt.build(PromptSection(), load_tokenizer(ModelSection(base=str(llama_folder))))
    found = answer(model, prompt, [[start, 9, 7] for start in range(3, 380)], GREEDY, max_new_tokens=LIMIT, batch=400)
    stopped = [given for given in found.answers if given.stopped]
    assert 0 < len(stopped) < len(found.answers)
    assert all(given.tokens < LIMIT for given in stopped)
    assert all(given.tokens == LIMIT for given in found.answers if not given.stopped)
    assert not any("<|im_end|>" in given.text for given in found.answers)


def test_the_speed_is_that_of_all_new_tokens_together() -> None:
    given = [Answer("a", 3, True), Answer("b", 5, False)]
    assert Answers(given, 2.0).tokens_per_second == 4.0
    assert Answers([], 0.0).tokens_per_second == 0.0


def test_a_model_that_our_decoding_does_not_fit_is_answered_by_transformers_and_that_is_said_once(
    llama_folder: Path,
) -> None:
    plain, odd = load(llama_folder), load(llama_folder)
    put_before(odd, torch.zeros(0, 32))  # no embeddings at all: the answers are the plain model's
    prompt = Prompt.build(PromptSection(), load_tokenizer(ModelSection(base=str(llama_folder))))
    said: list[str] = []
    told: list[tuple[int, int]] = []
    heard: dict[int, Answer] = {}
    for _ in range(2):
        found = answer(
            odd,
            prompt,
            asked(prompt),
            GREEDY,
            max_new_tokens=LIMIT,
            batch=3,
            heard=heard.__setitem__,
            say=said.append,
            tell=lambda done, total: told.append((done, total)),
        )
    assert found.answers == answer(plain, prompt, asked(prompt), GREEDY, max_new_tokens=LIMIT, batch=3).answers
    assert [heard[place] for place in range(len(QUESTIONS))] == found.answers
    assert all(0 < own.first_token_seconds <= own.seconds <= found.seconds for own in found.answers)
    assert told[-1] == (len(QUESTIONS) * LIMIT, len(QUESTIONS) * LIMIT)
    assert len(said) == 1 and "learnt embeddings" in said[0]


def test_no_prompts_have_no_answers(model: Any, prompt: Prompt) -> None:
    assert answer(model, prompt, [], GREEDY, max_new_tokens=LIMIT, batch=4).answers == []


@pytest.mark.parametrize("decoding", CANDIDATES, ids=lambda decoding: decoding.name)
def test_settings_are_what_transformers_would_otherwise_do_differently(decoding: Decoding) -> None:
    plain = GenerationConfig().to_diff_dict()
    changed = GenerationConfig(**decoding.settings()).to_diff_dict()
    assert {name: value for name, value in changed.items() if plain.get(name) != value} == decoding.settings()


def test_a_ban_on_repeated_runs_is_kept_in_batches_too(model: Any, prompt: Prompt) -> None:
    decoding = Decoding("no pair twice", no_repeat_ngram_size=2)
    prompts = [[5, 6, 7], [9] * 12, [40, 41]]
    found = answer(model, prompt, prompts, decoding, max_new_tokens=LIMIT, batch=3)
    assert found.answers == [alone(model, prompt, ids, decoding) for ids in prompts]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.integers(2, 40), st.integers(0, 39)), min_size=1, max_size=8), st.integers(1, 200))
def test_likelihoods_are_those_of_each_example_alone_in_any_batch(
    model: Any, shapes: list[tuple[int, int]], budget: int
) -> None:
    examples = [
        Example(tuple((13 * place + token) % 380 + 3 for token in range(length)), min(start, length - 1))
        for place, (length, start) in enumerate(shapes)
    ]
    for example, (nll, count) in zip(examples, likelihoods(model, examples, budget), strict=True):
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        own = losses[max(example.learn_from, 1) - 1 :]
        assert count == example.learnt == len(own)
        assert nll == pytest.approx(float(own.sum()), rel=1e-4, abs=1e-4)


def test_an_example_with_no_answer_left_has_no_likelihood_and_is_no_error(model: Any) -> None:
    assert likelihoods(model, [Example((5, 6, 7), 3)]) == [(0.0, 0)]
