from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import BloomConfig, BloomForCausalLM, Gemma2Config, Gemma2ForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from families import CONFIGS, gradients, make
from residency import packing, row_attention
from residency.batches import collate
from residency.loss import summed_loss, token_losses
from residency.packing import attention_for, beginning, drops, pack
from residency.prompts import Example
from residency.train.packed import Packing

OPENING = (7, 8, 9, 11)
EXAMPLES = [
    Example((*OPENING, *range(20, 34)), 7),
    Example((*OPENING, *range(60, 69)), 6),
    Example((*OPENING, 5, 6), 5),
]
TEXTS = [Example(example.input_ids, 0) for example in EXAMPLES]  # learnt from their first token on


def silent(reason: str) -> None:
    raise AssertionError(reason)


def both(model: Any, examples: list[Example], smoothing: float = 0.0) -> tuple[Any, Any, dict[str, Any]]:
    """Loss and gradients of the padded batch, then of the packed one, and that one itself."""
    batch = collate(examples, 0)
    plain = token_losses(model, batch, smoothing)[0].sum()
    wanted = plain, gradients(model, plain)
    with Packing(model, silent).on(batch) as packed:
        loss = summed_loss(model, packed, smoothing)
        found = loss, gradients(model, loss)
    return wanted, found, packed


def shared_in(batch: dict[str, Any]) -> int:
    """Tokens of a beginning that its rows share, whichever attention they are packed for."""
    rows = batch["packed"]
    return rows.shared if isinstance(rows, packing.Rows) else int(rows.blocks[3::4].max())


def assert_same(wanted: Any, found: Any) -> None:
    assert torch.allclose(wanted[0], found[0], rtol=1e-5)
    assert wanted[1].keys() == found[1].keys()
    for name, gradient in wanted[1].items():
        assert torch.allclose(found[1][name], gradient, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", [name for name in CONFIGS if name not in {"gemma 3", "mistral"}])
def test_every_family_has_the_loss_and_gradients_of_a_padded_batch(
    family: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(family, attention)
    monkeypatch.setattr(row_attention, "AREA", 32)  # so that these rows take several blocks
    monkeypatch.setattr(row_attention, "LEAST", 4)
    for examples, shared in ((EXAMPLES, len(OPENING)), (TEXTS, 0)):
        wanted, found, packed = both(model, examples)
        assert shared_in(packed) == shared
        assert_same(wanted, found)
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("family", ["gemma 3", "mistral"])
def test_rows_that_a_sliding_window_reaches_over_are_packed_and_wider_ones_are_not(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(family)
    monkeypatch.setattr(model.config, "sliding_window", 17)
    for part in model.modules():
        if getattr(part, "sliding_window", None):
            part.sliding_window = 17
    wanted, found, packed = both(model, EXAMPLES[1:])
    assert "packed" in packed
    assert_same(wanted, found)
    wanted, found, packed = both(model, EXAMPLES)  # 18 tokens
    assert "packed" not in packed
    assert_same(wanted, found)


def test_labels_are_smoothed_as_in_a_padded_batch() -> None:
    wanted, found, _ = both(make("llama"), EXAMPLES, smoothing=0.1)
    assert_same(wanted, found)


def test_adapters_learn_from_packed_rows() -> None:
    model = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).train()
    wanted, found, packed = both(model, EXAMPLES)
    assert packed["packed"].shared == len(OPENING)
    assert_same(wanted, found)


def test_a_step_that_is_recomputed_in_the_backward_pass_sees_the_same_rows() -> None:
    model = make("llama")
    model.gradient_checkpointing_enable()
    wanted, found, _ = both(model, EXAMPLES)
    assert_same(wanted, found)


def test_rows_lie_end_to_end_and_what_they_begin_with_lies_there_once() -> None:
    batch = collate([Example((7, 8, 9, 1, 2, 3), 4), Example((7, 8, 9, 4, 5), 4)], 0)
    packed = pack(batch, share=True)
    assert packed["input_ids"].tolist() == [[7, 8, 9, 1, 2, 3, 4, 5]]
    assert packed["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 3, 4]]
    assert packed["targets"].tolist() == [[-100, -100, -100, 2, 3, -100, 5, -100]]
    rows = packed["packed"]
    assert rows.grid.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 6, 7, 0]]
    assert (rows.row.tolist(), rows.column.tolist()) == ([0] * 6 + [1] * 2, [0, 1, 2, 3, 4, 5, 3, 4])
    apart = pack(batch, share=False)
    assert apart["input_ids"].tolist() == [[7, 8, 9, 1, 2, 3, 7, 8, 9, 4, 5]]


@pytest.mark.parametrize(
    ("examples", "shared"),
    [
        ([Example((1, 2, 3, 4), 3), Example((1, 2, 3, 4), 3)], 2),  # place 2 predicts what is learnt, in both rows
        ([Example((1, 2, 3, 4), 3), Example((1, 2, 3, 4), 2)], 0),  # place 1 does, and one token is not worth it
        ([Example((1, 2, 3, 4, 5), 4), Example((1, 2, 3), 3)], 2),  # nothing is learnt of the other: its last stays
        ([Example((1, 2, 3, 4), 3), Example((9, 2, 3, 4), 3)], 0),
        ([Example((1,), 1), Example((1,), 1)], 0),
    ],
)
def test_no_token_that_predicts_anything_is_shared(examples: list[Example], shared: int) -> None:
    assert pack(collate(examples, 0), share=True)["packed"].shared == shared


def test_what_all_examples_begin_with_is_found_without_a_batch() -> None:
    assert beginning(EXAMPLES) == pack(collate(EXAMPLES, 0), share=True)["packed"].shared == len(OPENING)
    assert beginning(TEXTS) == beginning([]) == beginning([Example((1,), 1)]) == 0


def test_one_row_alone_goes_through_as_it_is() -> None:
    batch = collate(EXAMPLES[:1], 0)
    with Packing(make("llama"), silent).on(batch) as found:
        assert found is batch


def test_with_dropout_each_row_has_a_beginning_of_its_own() -> None:
    model = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.5)).train()
    with Packing(model, silent).on(collate(EXAMPLES, 0)) as packed:
        assert packed["packed"].shared == 0
    assert model.training


def test_dropout_inside_attention_is_dropout_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    assert not drops(model)
    monkeypatch.setattr(model.config, "attention_dropout", 0.1)  # all tests have this configuration
    assert drops(model)


def bloom() -> Any:
    return BloomForCausalLM(BloomConfig(vocab_size=384, hidden_size=32, n_layer=2, n_head=4))


def prompt_tuned() -> Any:
    return get_peft_model(make("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))


@pytest.mark.parametrize(("made", "reason"), [(bloom, "of a kind of its own"), (prompt_tuned, "learnt embeddings")])
def test_what_cannot_be_packed_is_padded_and_that_is_said_once(made: Callable[[], Any], reason: str) -> None:
    model, said = made(), list[str]()
    packer, batch = Packing(model, said.append), collate(EXAMPLES, 0)
    for _ in range(2):
        with packer.on(batch) as found:
            assert found is batch
    assert len(said) == 1
    assert reason in said[0]


@pytest.mark.parametrize(
    ("fault", "reason"), [("wrong", "nats away"), ("broken", "Rows are padded and not packed: no")]
)
def test_a_model_that_takes_packed_rows_for_something_else_gets_padded_ones(
    fault: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(_inner: Any) -> Any:
        def attention(_module: Any, query: Any, *_: Any, **__: Any) -> Any:
            if fault == "broken":
                raise RuntimeError("no\nand more")
            return query.transpose(1, 2), None

        return attention

    monkeypatch.setattr(packing, "_packed", faulty)
    monkeypatch.setattr(ALL_ATTENTION_FUNCTIONS, "valid_keys", list)
    model, said = make("llama"), list[str]()
    name, known = "packed_modeling_llama", type(ALL_ATTENTION_FUNCTIONS)._global_mapping
    before = known.get(name)
    try:
        batch = collate(EXAMPLES, 0)
        with Packing(model, said.append).on(batch) as found:
            assert found is batch
    finally:
        known.pop(name, None)
        if before:
            known[name] = before
    assert reason in said[0]
    assert model.config._attn_implementation == "eager"


def test_capped_scores_are_for_the_models_own_attention_whatever_the_width() -> None:
    config = Gemma2Config(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    assert [attention_for(config, 9999, packs=packs) for packs in (True, False)] == ["eager", "eager"]
    assert attention_for(make("llama").config, 9999, packs=False) == "sdpa"
    model, said = Gemma2ForCausalLM(config), list[str]()
    model.config._attn_implementation = "eager"
    wanted, found, packed = both(model, EXAMPLES)
    assert "packed" in packed
    assert_same(wanted, found)
    model.config._attn_implementation = "sdpa"
    batch = collate(EXAMPLES, 0)
    with Packing(model, said.append).on(batch) as found:
        assert found is batch
    assert len(said) == 1
    assert said[0].startswith("Long rows are padded and not packed: `sdpa` attention does not support `softcap`")


def test_an_autocast_inside_the_model_is_left_out_while_packing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    model, within = make("llama"), list[bool]()
    own = model.forward

    def with_autocast(*args: Any, **kwargs: Any) -> Any:  # as accelerate puts it there
        within.append(True)
        with torch.autocast("cpu", torch.bfloat16):
            return own(*args, **kwargs)

    monkeypatch.setattr(model, "_original_forward", own, raising=False)
    monkeypatch.setattr(model, "forward", with_autocast)
    with Packing(model, silent).on(collate(EXAMPLES, 0)) as packed:
        assert not within
        summed_loss(model, packed)
    assert within
    assert model.forward is with_autocast


def test_plain_attention_is_told_from_what_a_model_hands_to_it() -> None:
    module = torch.nn.Module().train()
    query, key = torch.zeros(1, 4, 5, 8), torch.zeros(1, 2, 5, 8)
    each = query, key, key
    assert packing._is_plain(module, each, {"scaling": 0.3, "dropout": 0.0, "sliding_window": 9, "is_causal": True})
    assert packing._is_plain(module.eval(), each, {"dropout": 0.1})
    assert not packing._is_plain(module.train(), each, {"dropout": 0.1})
    assert not packing._is_plain(module, each, {"softcap": 30.0})
    assert not packing._is_plain(module, each, {"s_aux": torch.zeros(4)})
    assert not packing._is_plain(module, each, {"is_causal": False})
    assert not packing._is_plain(module, (query, key, key[..., :4]), {})


@pytest.mark.parametrize("heads", [2, 6])
def test_attention_over_a_grid_is_torchs_own_and_keeps_its_probabilities_alone(heads: int) -> None:
    torch.manual_seed(2)
    query, key, value = (torch.randn(3, n, 7, 4, dtype=torch.float64, requires_grad=True) for n in (heads, 2, 2))
    mask = torch.full((7, 7), -1e9, dtype=torch.float64).triu(1)
    given = torch.randn(3, heads, 7, 4, dtype=torch.float64)

    def passed(found: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (found, *torch.autograd.grad((found * given).sum(), (query, key, value)))

    wanted = passed(
        torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.4, enable_gqa=True)
    )
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        found = packing._Attended.apply(query, key, value, mask, 0.4)
    assert [shape for shape in kept if shape[-1] == 7] == [(3, 2, heads // 2 * 7, 7)]
    for own, other in zip(passed(found), wanted, strict=True):
        assert torch.allclose(own, other, atol=1e-6)
