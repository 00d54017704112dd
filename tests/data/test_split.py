from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.data import split as splitting
from residency.errors import UserError

clusters_of_rows = st.lists(st.integers(0, 40), min_size=30, max_size=120).map(np.array)


@settings(deadline=None, max_examples=50)
@given(clusters_of_rows, st.integers(0, 99))
def test_a_cluster_is_never_torn_apart_and_every_row_has_a_split(clusters: np.ndarray, seed: int) -> None:
    try:
        names = splitting.split(clusters, 0.2, 0.1, seed)
    except UserError:
        return  # one huge cluster: the test can't be filled without tearing it
    assert set(names) <= {"train", "validation", "test"}
    for cluster in np.unique(clusters):
        assert len(set(names[clusters == cluster])) == 1
    assert splitting.leaked(clusters, names) == 0
    counts = Counter(names)
    largest = max(Counter(clusters.tolist()).values())
    assert 0 < counts["test"] <= max(round(0.2 * len(clusters)), largest)
    assert 0 < counts["validation"] <= max(round(0.1 * len(clusters)), largest)


def test_without_duplicates_the_shares_are_exact() -> None:
    names = Counter(splitting.random_split(200, 0.1, 0.05, 1))
    assert names == {"train": 170, "validation": 10, "test": 20}


def test_the_seed_decides() -> None:
    one, again, other = (splitting.random_split(50, 0.2, 0.0, seed) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()


def test_what_a_plain_split_leaks_is_counted() -> None:
    clusters = np.array([0, 0, 1, 2])
    names = np.array(["test", "train", "test", "train"], dtype=object)
    assert splitting.leaked(clusters, names) == 1


@pytest.mark.parametrize(
    ("rows", "test", "key"), [(3, 0.1, "data.test 0.1 gives"), (1, 0.9, "leave no row of 1 to train")]
)
def test_an_empty_split_is_refused(rows: int, test: float, key: str) -> None:
    with pytest.raises(UserError, match=key):
        splitting.random_split(rows, test, 0.0, 1)


def test_a_share_of_zero_asks_for_no_rows() -> None:
    assert set(splitting.random_split(10, 0.0, 0.0, 1)) == {"train"}


def test_a_cluster_too_large_for_the_test_goes_where_it_fits() -> None:
    clusters = np.array([0] * 5 + list(range(1, 16)))
    for seed in range(20):
        names = splitting.split(clusters, 0.2, 0.1, seed)
        assert set(names[:5]) == {"train"}
        assert [(names == name).sum() for name in splitting.NAMES] == [4, 2, 14]


def test_one_cluster_of_everything_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"data\.test 0\.5 gives no row of 10 to test"):
        splitting.split(np.zeros(10, dtype=np.int64), 0.5, 0.0, 1)
    with pytest.raises(UserError, match=r"data\.validation 0\.1 gives no row of 3"):
        splitting.random_split(3, 0.4, 0.1, 1)
