from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PhiConfig,
    Qwen3Config,
)

from residency import virtual
from residency.decoding.body import Unfit
from residency.decoding.choosing import Choosing
from residency.decoding.tried import body
from residency.evaluate.answers.decode import Decoder, Ended

LIMIT = 12
SIZE = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GROUPED = SIZE | {"num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "llama": LlamaConfig(**GROUPED),
    "gpt-neox": GPTNeoXConfig(**SIZE),
    "gpt-2": GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "qwen3": Qwen3Config(**GROUPED),
    "gemma 3, windows of 6": Gemma3TextConfig(
        **GROUPED | {"num_hidden_layers": 3},
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "mistral, windows of 5": MistralConfig(**GROUPED, sliding_window=5),
    "mistral": MistralConfig(**GROUPED, sliding_window=None),
    "phi": PhiConfig(**SIZE),
}
CHOICES = {
    "greedy": Choosing(),
    "repetition penalty": Choosing(repetition_penalty=1.3),
    "no pair twice": Choosing(no_repeat_ngram_size=2),
    "penalty, and no token twice": Choosing(repetition_penalty=1.1, no_repeat_ngram_size=1),
}
STOPS = (7, 23)


def make(config: Any) -> Any:
    """A model with random weights so large that attention matters, in float64: no tie is decided by rounding."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    model.generation_config = GenerationConfig()
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    return make(CONFIGS[request.param])


def prompts(*lengths: int, common: int = 0) -> list[list[int]]:
    """Random prompts of these lengths, after a beginning that all have."""
    draw = torch.Generator().manual_seed(1)
    head = torch.randint(61, (common,), generator=draw).tolist()
    return [head + torch.randint(61, (length,), generator=draw).tolist() for length in lengths]


def alone(model: Any, ids: list[int], choosing: Choosing) -> list[int]:
    """What transformers' generate gives when it is asked nothing else, with the token that ended it."""
    given = torch.tensor([ids])
    config = GenerationConfig(
        max_new_tokens=LIMIT,
        do_sample=False,
        eos_token_id=list(STOPS),
        pad_token_id=0,
        repetition_penalty=choosing.repetition_penalty,
        no_repeat_ngram_size=choosing.no_repeat_ngram_size,
    )
    out = model.generate(input_ids=given, attention_mask=torch.ones_like(given), generation_config=config)
    return out[0, len(ids) :].tolist()  # type: ignore[no-any-return]


def together(model: Any, asked: list[list[int]], choosing: Choosing, most: int, **more: Any) -> dict[int, Ended]:
    found: dict[int, Ended] = {}
    fits = body(model, max(asked, key=len))
    Decoder(fits, asked, choosing, stops=STOPS, limit=LIMIT, most=most, heard=found.__setitem__, **more).run()
    return found


@pytest.mark.parametrize("choosing", CHOICES.values(), ids=CHOICES)
def test_every_family_answers_token_for_token_as_transformers_does_alone(model: Any, choosing: Choosing) -> None:
    for asked in (prompts(9, 2, 17, 1), prompts(4, 12, 1, common=10)):  # the latter begin alike
        found = together(model, asked, choosing, most=2)
        for place, ids in enumerate(asked):
            expected = alone(model, ids, choosing)
            stopped = expected[-1] in STOPS
            assert found[place].ids == (expected[:-1] if stopped else expected)
            assert found[place].stopped == stopped


def test_some_of_these_answers_stop_and_others_run_to_the_limit() -> None:
    # Else the test above would say nothing about questions that take the places of answers that have ended.
    found = together(make(CONFIGS["llama"]), prompts(*range(1, 30)), Choosing(repetition_penalty=1.3), most=4)
    lengths = {len(ended.ids) for ended in found.values() if ended.stopped}
    assert len(lengths) > 2
    assert any(not ended.stopped and len(ended.ids) == LIMIT for ended in found.values())


@pytest.mark.parametrize("most", [1, 2, 29, 100])
def test_how_many_are_answered_at_once_changes_no_answer(most: int) -> None:
    model, asked = make(CONFIGS["llama"]), prompts(*range(1, 30))
    found = together(model, asked, Choosing(repetition_penalty=1.2), most)
    usual = together(model, asked, Choosing(repetition_penalty=1.2), 8)
    assert {place: (own.ids, own.stopped) for place, own in found.items()} == {
        place: (own.ids, own.stopped) for place, own in usual.items()
    }


def test_what_all_prompts_begin_with_goes_through_the_model_once() -> None:
    model = make(CONFIGS["llama"])
    seen: list[int] = []
    asked = prompts(3, 4, 5, 6, common=40)
    fits = body(model, asked[0])
    hook = model.get_input_embeddings().register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].numel())
    )
    Decoder(fits, asked, Choosing(), stops=(), limit=1, most=4).run()
    hook.remove()
    assert seen == [40, 4 * 6]


def test_an_answer_is_heard_as_soon_as_it_has_ended_and_progress_ends_at_the_total() -> None:
    model, asked = make(CONFIGS["llama"]), prompts(*range(1, 30))
    told: list[tuple[int, int]] = []
    heard: list[tuple[int, int]] = []
    fits = body(model, asked[-1])
    Decoder(
        fits,
        asked,
        Choosing(),
        stops=STOPS,
        limit=LIMIT,
        most=8,
        heard=lambda place, _ended: heard.append((len(told), place)),
        tell=lambda done, total: told.append((done, total)),
    ).run()
    assert sorted(place for _, place in heard) == list(range(len(asked)))
    assert len({when for when, _ in heard}) > 5
    assert told[-1] == (len(asked) * LIMIT, len(asked) * LIMIT)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_seconds_run_from_when_a_question_enters_the_batch() -> None:
    found = together(make(CONFIGS["llama"]), prompts(5, 6, 7, 8), Choosing(), most=1)
    for ended in found.values():
        assert 0 < ended.first_token_seconds <= ended.seconds < 5
        assert (ended.first_token_seconds == ended.seconds) == (len(ended.ids) + ended.stopped == 1)


def test_a_model_whose_adapter_is_not_merged_answers_with_it() -> None:
    plain, asked = make(CONFIGS["llama"]), prompts(3, 9)
    before = together(plain, asked, Choosing(), most=2)
    model = get_peft_model(plain, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    found = together(model.double(), asked, Choosing(), most=2)
    for place, ids in enumerate(asked):
        expected = alone(model, ids, Choosing())
        assert found[place].ids == (expected[:-1] if found[place].stopped else expected)
    assert found[0].ids != before[0].ids


def test_the_models_attention_is_given_back_and_the_model_is_not_held() -> None:
    model = make(CONFIGS["llama"])
    model.config._attn_implementation = "eager"
    together(model, prompts(3, 4), Choosing(), most=2)
    assert model.config._attn_implementation == "eager"
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_an_interruption_leaves_the_model_as_it_was() -> None:
    model = make(CONFIGS["llama"])
    before = model.config._attn_implementation

    def stop(done: int, total: int) -> None:
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together(model, prompts(3, 4), Choosing(), most=2, tell=stop)
    assert model.config._attn_implementation == before
    assert not model.get_output_embeddings()._forward_pre_hooks


UNFIT = {
    "attention by distance": BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4),
    "a state in place of keys": MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=4),
    "soft caps inside attention": Gemma2Config(**GROUPED),
}


@pytest.mark.parametrize("config", UNFIT.values(), ids=UNFIT)
def test_a_model_of_another_kind_is_told_from_those_that_fit(config: Any) -> None:
    with pytest.raises(Unfit):
        body(make(config), list(range(20)))


def test_learnt_embeddings_before_the_prompt_are_left_to_transformers() -> None:
    model = virtual.put_before(make(CONFIGS["llama"]), torch.zeros(3, 32))
    with pytest.raises(Unfit, match="learnt embeddings"):
        body(model, list(range(20)))


def test_a_model_whose_step_gives_other_logits_than_a_plain_pass_is_refused() -> None:
    model = make(CONFIGS["llama"])
    # It forgets positions when it has keys and values from before, as a model with positions of its own making would.
    model.model.rotary_emb.register_forward_pre_hook(
        lambda _module, args, kwargs: (
            (args, kwargs | {"position_ids": kwargs["position_ids"] * 0}) if args[0].shape[1] == 1 else None
        ),
        with_kwargs=True,
    )
    with pytest.raises(Unfit, match="standard deviations"):
        body(model, list(range(20)))
