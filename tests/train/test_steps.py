from __future__ import annotations

from residency.prompts import Example
from residency.train.steps import EpochSampler, StepCollator


def test_each_epoch_has_its_own_order_and_keeps_it() -> None:
    orders = []
    for epoch in (0, 1, 0):
        sampler = EpochSampler(50, seed=3)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == list(range(50))


def test_a_steps_examples_come_as_micro_batches_within_the_budget() -> None:
    examples = [Example(tuple(range(1, length + 1)), 1) for length in (5, 9, 3, 9, 2)]
    batches = StepCollator(pad_id=0, tokens_per_batch=18)(examples)["micro_batches"]
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(2, 9), (3, 5)]
    assert sum(int(batch["attention_mask"].sum()) for batch in batches) == 28
