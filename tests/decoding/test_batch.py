from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from residency.decoding.batch import Asked, Batch, Row
from residency.decoding.body import Body
from residency.decoding.choosing import Choosing, drawn

LIMIT = 12
STOPS = (7, 23)


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights so large that attention matters, in float64: no tie is decided by rounding."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
    )
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    made.generation_config = GenerationConfig()
    return made


def prompt(length: int, seed: int = 1) -> list[int]:
    return torch.randint(61, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def batch(model: Any, rows: int = 4, shared: list[int] | None = None) -> Batch:
    made = Batch(Body.of(model), rows=rows, columns=64, stops=STOPS)
    made.share(shared or [])
    return made


def finish(made: Batch, rows: list[Row]) -> list[list[int]]:
    while made.running:
        made.step()
    return [row.answer for row in rows]


def alone(model: Any, asked: Asked) -> list[int]:
    """What transformers' generate gives when it is asked nothing else, without the token that ended it."""
    given = torch.tensor([asked.ids])
    config = GenerationConfig(
        max_new_tokens=asked.limit,
        do_sample=False,
        eos_token_id=list(STOPS),
        pad_token_id=0,
        repetition_penalty=asked.choosing.repetition_penalty,
        no_repeat_ngram_size=asked.choosing.no_repeat_ngram_size,
    )
    out = model.generate(input_ids=given, attention_mask=torch.ones_like(given), generation_config=config)
    own: list[int] = out[0, len(asked.ids) :].tolist()
    return own[:-1] if own[-1] in STOPS else own


MIXED = [
    Asked(prompt(5, 1), LIMIT),
    Asked(prompt(9, 2), 3, Choosing(repetition_penalty=1.3)),
    Asked(prompt(2, 3), LIMIT, Choosing(no_repeat_ngram_size=2)),
    Asked(prompt(17, 4), 7, Choosing(repetition_penalty=1.1, no_repeat_ngram_size=1)),
    Asked(prompt(4, 5), LIMIT, Choosing(repetition_penalty=1.2)),
]


def test_answers_with_choosings_and_limits_of_their_own_run_side_by_side_as_each_would_alone(model: Any) -> None:
    made = batch(model, rows=5)
    with made.model.ready():
        rows = made.enter(MIXED)
        found = finish(made, rows)
    assert found == [alone(model, asked) for asked in MIXED]


def test_a_question_may_enter_while_others_run_and_an_answer_may_leave(model: Any) -> None:
    made = batch(model, rows=3)
    with made.model.ready():
        rows = made.enter(MIXED[:1])
        made.step()
        (unwanted,) = made.enter([Asked(prompt(6, 9), LIMIT)])
        made.step()
        rows += made.enter(MIXED[3:4])
        made.leave(unwanted)
        assert unwanted not in made.running and made.free == 1
        rows += made.enter(MIXED[4:])
        found = finish(made, rows)
    assert found == [alone(model, asked) for asked in (MIXED[0], MIXED[3], MIXED[4])]


def test_a_prompt_that_does_not_begin_as_most_do_is_answered_beside_those_that_do(model: Any) -> None:
    head = prompt(10, 8)
    asked = [Asked(head + prompt(3, 1), LIMIT), Asked(prompt(8, 2), LIMIT), Asked(head, LIMIT)]
    made = batch(model, shared=head)
    with made.model.ready():
        assert [made.room(asked), made.room(asked[1:])] == [1, 2]  # a pass for each kind
        rows = made.enter(asked[:1]) + made.enter(asked[1:])
        assert finish(made, rows) == [alone(model, one) for one in asked]


def test_what_is_drawn_hangs_on_the_seed_and_not_on_the_company(model: Any) -> None:
    hot = Asked(prompt(5, 1), LIMIT, Choosing(temperature=1.5, top_p=0.9, seed="7/0"))
    others = [Asked(prompt(9, 2), LIMIT), Asked(prompt(3, 3), LIMIT, Choosing(temperature=1.0, seed=1))]
    made = batch(model)
    with made.model.ready():
        (single,) = finish(made, made.enter([hot]))
        made.enter(others)
        made.step()
        (among,) = finish(made, made.enter([hot]))
        (other,) = finish(made, made.enter([Asked(hot.ids, LIMIT, replace(hot.choosing, seed="8/0"))]))
    assert single == among
    assert single != other


def test_a_row_whose_numbers_broke_leaves_nothing_behind(model: Any) -> None:
    made = batch(model, rows=2)
    with made.model.ready():
        (bad, good) = made.enter([Asked(prompt(20, 4), LIMIT), MIXED[0]])
        for layer in made.slots.held:
            layer.values[0] = torch.nan
        made.step()
        assert (bad.faulty, good.faulty) == (True, False)
        made.leave(bad)
        rows = [good, *made.enter(MIXED[3:4])]
        assert finish(made, rows) == [alone(model, MIXED[0]), alone(model, MIXED[3])]


def test_a_pass_that_fails_leaves_the_batch_as_it_was(model: Any) -> None:
    made = batch(model, rows=3)
    with made.model.ready():
        rows = made.enter(MIXED[:1])
        with pytest.raises(IndexError):
            made.enter([Asked([1, 2, 61], LIMIT)])  # a token that the model has not
        assert made.running == rows
        assert finish(made, rows) == [alone(model, MIXED[0])]


def test_tokens_are_drawn_as_often_as_their_shares_say() -> None:
    logits = torch.tensor([1.0, 3.0, -1.0, 2.0, -torch.inf]).repeat(4000, 1)
    numbers = torch.rand(4000, generator=torch.Generator().manual_seed(0)).tolist()
    for heat, top_p in ((1.0, 1.0), (2.0, 1.0), (1.0, 0.8)):
        found = Counter(drawn(logits, [Choosing(temperature=heat, top_p=top_p)] * 4000, numbers))
        shares = (logits[0] / heat).softmax(-1)
        if top_p < 1:
            shares = shares * torch.tensor([0, 1, 0, 1, 0])  # 0.64 and 0.24 hold 0.8 together, 0.64 alone does not
            shares = shares / shares.sum()
        for token, share in enumerate(shares.tolist()):
            assert abs(found[token] / 4000 - share) < 0.03
            assert share or not found[token]


def test_the_last_number_below_one_draws_a_token_that_has_a_share() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]])
    assert drawn(logits, [Choosing(temperature=1.0)], [1 - 2**-53]) == [1]
    assert drawn(logits, [Choosing(temperature=1.0)], [0.0]) == [0]
    assert drawn(logits, [Choosing(temperature=1e-9)], [0.999]) == [1]
    assert drawn(logits, [Choosing(temperature=1.0, top_p=1e-9)], [0.999]) == [1]
