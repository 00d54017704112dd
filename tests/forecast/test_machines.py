from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.errors import UserError
from residency.forecast.machines import USES, decoders, efficiency, electricity, largest, largest_size, machines, needs

ASKED_FOR = (
    "p3.2xlarge", "p3.8xlarge", "p3.16xlarge", "p3dn.24xlarge", "p4d.24xlarge", "p4de.24xlarge",
    "rtx-3060", "rtx-3090", "rtx-4090", "rtx-5090", "h100", "h200", "b200",
)  # fmt: skip
EVERY = machines()


def test_the_table_holds_what_people_ask_about() -> None:
    assert {machine.name for machine in EVERY} >= set(ASKED_FOR)
    assert {machine.kind for machine in EVERY} == {"cuda", "mps", "cpu"}
    assert electricity() > 0


@pytest.mark.parametrize("machine", EVERY, ids=lambda machine: machine.name)
def test_every_row_is_whole(machine: object) -> None:
    row = vars(machine)
    assert all(row[name] > 0 for name in ("devices", "memory", "bandwidth", "fp32", "watts"))
    assert row["bf16"] is None or row["bf16"] >= row["fp32"]
    assert row["source"]
    assert (row["price"] is None) == (row["date"] == "")  # a price has a date
    assert 0 < efficiency(row["kind"]).compute < 1


@pytest.mark.parametrize("machine", EVERY, ids=lambda machine: machine.name)
def test_what_needs_less_holds_a_larger_model(machine: object) -> None:
    sizes = [largest_size(machine, use) for use in USES]
    assert sizes[1:] == sorted(sizes[1:], reverse=True)  # QLoRA, LoRA, full
    assert sizes[0] > sizes[3]
    for use, size in zip(USES, sizes, strict=True):
        model = largest(machine, use)
        assert model is None or (model.parameters <= size * 1.001 and needs(model, use, machine) <= machine.usable)


def test_known_facts_of_the_trade() -> None:
    found = {machine.name: machine for machine in EVERY}
    assert 6e9 < largest_size(found["rtx-4090"], "lora") < 12e9  # 7B with LoRA in 24 GB
    assert largest_size(found["rtx-4090"], "full") < 2e9
    assert largest(found["rtx-3060"], "qlora").parameters > 6e9  # 7B with QLoRA in 12 GB
    assert largest_size(found["p4de.24xlarge"], "full") > 20e9


def test_a_machine_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"machine p4d\.24xlarg: .*did you mean \"p4d\.24xlarge\""):
        machines(["p4d.24xlarg"])


def test_names_choose_and_none_choose_nothing() -> None:
    assert [machine.name for machine in machines(["h100", "p3.2xlarge"])] == ["p3.2xlarge", "h100"]
    assert machines([]) == []


@settings(deadline=None, max_examples=40)
@given(machine=st.sampled_from(EVERY), use=st.sampled_from(USES))
def test_needs_grow_with_the_model(machine: object, use: str) -> None:
    sevens = [decoder for decoder in decoders() if decoder.name.startswith("llama-3")]
    bytes_needed = [needs(decoder, use, machine) for decoder in sevens]
    assert bytes_needed == sorted(bytes_needed)
