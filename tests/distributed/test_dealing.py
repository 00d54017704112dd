from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.batches import IGNORED, cut
from residency.prompts import Example
from residency.train.dealing import deal
from residency.train.steps import StepCollator


def padded(dealt: list[list[list[int]]], lengths: list[int]) -> list[int]:
    """Padded tokens of each rank."""
    return [sum(len(batch) * max(lengths[place] for place in batch) for batch in own) for own in dealt]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 2000), st.integers(1, 9))
def test_every_example_goes_to_one_rank_within_the_budget_and_no_cut_is_worse_than_the_coarsest(
    lengths: list[int], budget: int, ranks: int
) -> None:
    dealt = deal(lengths, budget, ranks)
    assert len(dealt) == ranks
    assert sorted(place for own in dealt for batch in own for place in batch) == list(range(len(lengths)))
    for own in dealt:
        for batch in own:
            assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= budget
    largest = max(sum(padded([[batch]], lengths)) for batch in cut(lengths, budget))
    assert ranks == 1 or max(padded(dealt, lengths)) <= max(sum(padded([cut(lengths, budget)], lengths)), largest)


def test_ranks_get_nearly_the_same_number_of_tokens() -> None:
    # 64 examples as long as those of a medical data set: many short ones, a few that are ten times as long.
    lengths = [int(n) for n in np.random.default_rng(1).lognormal(5, 0.8, size=64)]
    for ranks in (2, 4, 8):
        loads = padded(deal(lengths, 16384, ranks), lengths)
        assert max(loads) < 1.15 * sum(lengths) / ranks


def test_a_step_too_small_for_all_ranks_leaves_some_with_nothing() -> None:
    dealt = deal([50, 40], 1000, 4)
    assert sorted(map(len, dealt)) == [0, 0, 1, 1]


def test_ranks_in_step_go_through_as_many_batches_and_the_extra_ones_learn_nothing() -> None:
    examples = [Example(tuple(range(3, 3 + length)), 2) for length in (40, 9, 8)]
    own = [StepCollator(0, 40, rank, 3, even=True)(examples) for rank in range(3)]
    assert len({len(step["micro_batches"]) for step in own}) == 1
    learnt = sum(int((batch["labels"] != IGNORED).sum()) for step in own for batch in step["micro_batches"])
    assert learnt == sum(example.learnt for example in examples) == own[0]["tokens"]["answer_tokens"]
    uneven = [StepCollator(0, 40, rank, 4)(examples)["micro_batches"] for rank in range(4)]
    assert [] in uneven
