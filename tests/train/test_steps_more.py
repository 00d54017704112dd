from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from residency.batches import IGNORED
from residency.prompts import Example
from residency.train.steps import EpochSampler, StepCollator


@st.composite
def some_examples(draw: st.DrawFn) -> list[Example]:
    """Examples whose tokens are all different, so that each can be recognised in a batch."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    return [
        Example(tuple(range(100 * place, 100 * place + length)), draw(st.integers(0, length)))
        for place, length in enumerate(lengths, start=1)
    ]


@settings(deadline=None, max_examples=50)
@given(some_examples(), st.integers(1, 200), st.integers(0, 3))
def test_every_example_of_a_step_goes_through_once_with_its_own_answer(
    examples: list[Example], budget: int, pad_id: int
) -> None:
    found = []
    for batch in StepCollator(pad_id, budget)(examples)["micro_batches"]:
        rows, width = batch["input_ids"].shape
        assert rows == 1 or rows * width <= budget
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            learnt = tuple(labels[labels != IGNORED].tolist())
            found.append((tuple(ids[mask.bool()].tolist()), learnt))
            assert (ids[~mask.bool()] == pad_id).all()
    assert sorted(found) == sorted((example.input_ids, example.input_ids[example.learn_from :]) for example in examples)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 200), st.integers(0, 2**31), st.integers(0, 1000))
def test_an_epoch_is_each_example_once_and_the_same_in_every_process(total: int, seed: int, epoch: int) -> None:
    orders = []
    for _ in range(2):
        sampler = EpochSampler(total, seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(total))
    assert len(sampler) == total


def test_another_seed_is_another_order() -> None:
    assert list(EpochSampler(50, 1)) != list(EpochSampler(50, 2))
