"""Train, validation and test by a seed; near-duplicates stay together, so that no test case leaks into training."""

from __future__ import annotations

import numpy as np

from residency.errors import UserError

NAMES = ("test", "validation", "train")


def split(clusters: np.ndarray, test: float, validation: float, seed: int) -> np.ndarray:
    """The split's name for each row [rows]; whole clusters in shuffled order fill test, then validation, then train.

    Raises:
        UserError: a split that was asked for, or training, would be empty.
    """
    total = len(clusters)
    goals = {"test": round(total * test), "validation": round(total * validation)}
    order = np.random.default_rng(seed).permutation(np.unique(clusters))
    members: dict[int, list[int]] = {}
    for row, cluster in enumerate(clusters.tolist()):
        members.setdefault(cluster, []).append(row)
    names = np.full(total, "train", dtype=object)
    filled = dict.fromkeys(goals, 0)
    for cluster in order.tolist():
        rows = members[cluster]
        for name, goal in goals.items():
            if filled[name] + len(rows) <= goal:
                names[rows] = name
                filled[name] += len(rows)
                break
    for name, goal in goals.items():
        if goal and not filled[name]:  # every cluster is larger than the goal: one more row is better than none
            names[_smallest(members, names, order)] = name
    _check(names, {"test": test, "validation": validation, "train": 1.0}, total)
    return names


def _smallest(members: dict[int, list[int]], names: np.ndarray, order: np.ndarray) -> list[int]:
    """Rows of the smallest cluster that is still in training; nothing where it would leave training empty."""
    left = [members[cluster] for cluster in order.tolist() if names[members[cluster][0]] == "train"]
    return min(left, key=len) if len(left) > 1 else []


def leaked(clusters: np.ndarray, names: np.ndarray) -> int:
    """How many test rows have a near-duplicate in training."""
    training = set(clusters[names == "train"].tolist())
    return sum(cluster in training for cluster in clusters[names == "test"].tolist())


def random_split(total: int, test: float, validation: float, seed: int) -> np.ndarray:
    """A plain random split [rows], for the count of what it would have leaked."""
    return split(np.arange(total), test, validation, seed)


def _check(names: np.ndarray, shares: dict[str, float], total: int) -> None:
    for name, share in shares.items():
        if share > 0 and not (names == name).any():
            key = "data.test and data.validation leave" if name == "train" else f"data.{name} {share:g} gives"
            raise UserError(f"{key} no row of {total} to {name}", "at least one row in each split", "use more rows")
