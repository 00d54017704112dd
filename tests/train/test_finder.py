from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest

from residency import pipeline
from residency.errors import UserError
from residency.recipe import Recipe
from residency.train.finder import HIGHEST, LOWEST, STEPS, picture, read_sweep, smooth
from residency.workspace import Run

RATES = [LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)) for step in range(STEPS)]


def valley(rate: float) -> float:
    """A loss that falls fastest at a rate of 1e-3, is least near 1e-2 and soon shoots up."""
    return 4 - 2 / (1 + math.exp(-3 * math.log(rate / 1e-3))) + (rate / 0.05) ** 3


def test_the_suggestion_is_a_tenth_of_where_the_loss_is_least_and_the_steepest_fall_is_told() -> None:
    losses = [min(valley(rate), 50.0) for rate in RATES]
    found = read_sweep(RATES, losses)
    assert found.steepest is not None
    assert found.lowest is not None
    assert found.diverged is not None
    assert 4e-4 < found.steepest < 2.5e-3
    assert 2e-3 < found.lowest < 3e-2 < found.diverged < 0.3
    assert found.suggestion == found.lowest / 10


def test_noise_of_the_batches_hardly_moves_the_suggestion() -> None:
    noisy = [min(valley(rate), 50.0) + 0.1 * math.sin(7.3 * step) for step, rate in enumerate(RATES)]
    suggestion = read_sweep(RATES, noisy).suggestion
    assert suggestion is not None
    assert 2e-4 < suggestion < 3e-3


def test_a_loss_that_hardly_falls_suggests_nothing() -> None:
    found = read_sweep(RATES, [3.0 + 0.01 * math.sin(step) for step in range(STEPS)])
    assert (found.suggestion, found.steepest, found.lowest, found.diverged) == (None, None, None, None)
    assert picture(found).startswith(b"\x89PNG")


def test_a_loss_that_is_no_number_is_where_it_diverged() -> None:
    losses = [valley(rate) if rate < 0.01 else math.nan for rate in RATES]
    found = read_sweep(RATES, losses)
    assert found.diverged == next(rate for rate in RATES if rate >= 0.01)
    assert len(found.smoothed) == sum(math.isfinite(loss) for loss in losses)
    with pytest.raises(UserError, match="no number after 3 steps"):
        read_sweep(RATES[:4], [4.0, 4.0, 4.0, math.nan])


def test_smoothing_keeps_straight_lines_and_lags_behind_none() -> None:
    line = [2.0 * step for step in range(20)]
    assert smooth(line)[3:-3] == pytest.approx(line[3:-3])
    assert smooth([1.0] * 9) == pytest.approx([1.0] * 9)


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_sweep_leaves_a_trained_run_as_it_was_and_comes_out_the_same_again(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    small_recipe["train"] |= {"method": "full", "precision": "fp32", "max_steps": 2}
    recipe = Recipe.parse(small_recipe)
    pipeline.prepare(recipe, tmp_path)
    pipeline.train(recipe, tmp_path)
    before = hashes(tmp_path)
    found = pipeline.find_learning_rate(recipe, tmp_path)
    after = hashes(tmp_path)
    assert after.keys() - before.keys() == {"lr_finder.json", "lr_finder.png"}
    assert {name for name, digest in before.items() if after[name] != digest} == {"manifest.json"}
    assert pipeline.verify(tmp_path) == []
    assert found.rates == pytest.approx(RATES[: len(found.rates)])
    assert found.suggestion is not None
    assert LOWEST < found.suggestion < HIGHEST / 5
    assert Run.open(tmp_path).read_json("lr_finder.json", "train")["suggestion"] == found.suggestion
    assert pipeline.find_learning_rate(recipe, tmp_path) == found
