from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.batches import IGNORED, collate, cut
from residency.prompts import Example


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 600))
def test_each_example_goes_through_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = cut(lengths, budget)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[place] for place in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 600))
def test_a_smaller_budget_would_take_more_micro_batches(lengths: list[int], budget: int) -> None:
    batches = cut(lengths, budget)
    largest = max(len(batch) * max(lengths[place] for place in batch) for batch in batches)
    assert largest == max(lengths) or len(cut(lengths, largest - 1)) > len(batches)


def test_micro_batches_are_of_like_size() -> None:
    assert [len(batch) for batch in cut([100] * 16, 1200)] == [8, 8]


def test_padding_is_marked_by_mask_and_labels_not_by_its_id() -> None:
    batch = collate([Example((7, 8, 0, 0), 2), Example((7, 0), 1)], pad_id=0)
    assert batch["input_ids"].tolist() == [[7, 8, 0, 0], [7, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 0, 0], [IGNORED, 0, IGNORED, IGNORED]]
    assert batch["labels"].dtype == torch.long


EXAMPLE = st.builds(
    lambda ids, share: Example(tuple(ids), int(share * len(ids))),
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.floats(0, 1),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(EXAMPLE, min_size=1, max_size=6), st.integers(0, 5))
def test_every_example_can_be_read_back_from_its_row(examples: list[Example], pad_id: int) -> None:
    batch = collate(examples, pad_id)
    for row, example in enumerate(examples):
        assert tuple(batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist()) == example.input_ids
        learnt = batch["labels"][row] != IGNORED
        assert tuple(batch["labels"][row][learnt].tolist()) == example.input_ids[example.learn_from :]
        assert int(learnt[1:].sum()) == example.learnt
