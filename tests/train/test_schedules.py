from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, TrainingArguments, get_scheduler

from residency.prompts import Example
from residency.recipe import Schedule, TrainSection
from residency.sections import ScheduleSection
from residency.train.schedules import COURSES, curve, factor, warmup_steps
from residency.train.trainer import ResidencyTrainer

EXAMPLES = [Example(tuple((7 * n + place) % 380 + 3 for place in range(6)), 2) for n in range(4)]


def section(schedule: str, warmup: float = 0, **options: Any) -> TrainSection:
    return TrainSection.model_validate(
        {"schedule": schedule, "warmup": warmup, "learning_rate": 0.01, "schedule_options": options}
    )


def test_every_schedule_of_the_recipe_has_a_course() -> None:
    assert set(COURSES) == set(get_args(Schedule))


@pytest.mark.parametrize(
    ("ours", "theirs", "specific"),
    [
        (section("constant", 3), "constant_with_warmup", {}),
        (section("linear", 3), "linear", {}),
        (section("cosine", 3), "cosine", {}),
        (section("cosine", 3, floor=0.1), "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        (section("polynomial", 3, power=3), "polynomial", {"power": 3, "lr_end": 0.0}),
        (section("inverse-square-root", 3), "inverse_sqrt", {}),
        (section("inverse-square-root", 3, timescale=7), "inverse_sqrt", {"timescale": 7}),
        (section("cosine-restarts", 3, cycles=4), "cosine_with_restarts", {"num_cycles": 4}),
        (section("warmup-stable-decay", 3), "warmup_stable_decay", {"num_decay_steps": 4, "decay_type": "1-sqrt"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schedule_is_transformers_own_where_it_has_one(
    ours: TrainSection, theirs: str, specific: dict[str, Any]
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = get_scheduler(theirs, optimizer, 3, 23, specific)
    rates = []
    for _ in range(23):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert curve(ours, 23) == pytest.approx(rates, abs=1e-12)


@pytest.mark.parametrize(
    ("given_section", "expected"),
    [
        (section("step"), [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        (section("step", drops=1, drop=0.1), [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        (section("step", floor=0.2, drops=1), [1, 1, 1, 1, 0.6, 0.6, 0.6, 0.6]),
        (section("exponential"), [0.01 ** (step / 8) for step in range(8)]),
        (section("exponential", 4, end=0.5), [0, 0.25, 0.5, 0.75, 1, 0.5**0.25, 0.5**0.5, 0.5**0.75]),
    ],
)
def test_step_and_exponential_fall_as_they_say(given_section: TrainSection, expected: list[float]) -> None:
    assert curve(given_section, 8) == pytest.approx([0.01 * share for share in expected])


@given(
    schedule=st.sampled_from(get_args(Schedule)),
    warmup=st.one_of(st.floats(0, 0.9), st.integers(1, 30).map(float)),
    floor=st.floats(0, 0.9),
    steps=st.integers(1, 200),
)
@settings(deadline=None, max_examples=40)
def test_a_rate_rises_to_its_peak_and_stays_between_floor_and_peak(
    schedule: str, warmup: float, floor: float, steps: int
) -> None:
    chosen = section(schedule, warmup, floor=floor)
    shares = [factor(chosen, steps)(step) for step in range(steps + 1)]
    warm = warmup_steps(chosen, steps)
    assert shares[:warm] == pytest.approx([step / warm for step in range(warm)][: steps + 1])
    assert all(floor - 1e-12 <= share <= 1 for share in shares[warm:])
    if warm < steps:
        assert shares[warm] == 1


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_the_curve_that_is_drawn_is_the_one_that_training_logs(
    schedule: str, llama_folder: Path, tmp_path: Path
) -> None:
    chosen = section(schedule, 0.2, floor=0.05)
    trainer = ResidencyTrainer(
        model=AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32),
        args=TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=12, logging_steps=1,
            learning_rate=chosen.learning_rate, per_device_train_batch_size=1, save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=EXAMPLES,
        validation=[],
        pad_id=0,
        tokens_per_batch=64,
        rate=factor(chosen, 12),
    )  # fmt: skip
    trainer.train()
    logged = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert logged == pytest.approx(curve(chosen, 12), abs=1e-15)


def test_options_that_no_schedule_can_have_are_refused() -> None:
    with pytest.raises(ValueError, match="drop"):
        ScheduleSection(drop=1.0)
