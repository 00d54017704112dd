from __future__ import annotations

import polars as pl
import pytest

from residency.data import privacy


def redact(text: str) -> tuple[str, dict[str, int]]:
    rows, counts = privacy.redact(pl.DataFrame({"question": [text], "answer": [""]}))
    return rows["question"][0], counts


@pytest.mark.parametrize("address", ["a.b+c@mail.example", "nurse_1@clinic.co.example"])
def test_an_address_becomes_a_placeholder(address: str) -> None:
    assert redact(f"Write to {address}, please.") == ("Write to [EMAIL], please.", {"email": 1, "phone": 0})


@pytest.mark.parametrize(
    "number", ["020 7946 0182", "+44 20 7946 0417", "(555) 010-0143", "07700 900 461", "+15550100199"]
)
def test_a_phone_number_becomes_a_placeholder(number: str) -> None:
    assert redact(f"Ring {number} now.") == ("Ring [PHONE] now.", {"email": 0, "phone": 1})


@pytest.mark.parametrize(
    "text",
    [
        "My pressure was 120/80 on 2023-01-15 and 130/85 after.",
        "Take 500 mg twice a day for 10 days.",
        "In 2019, 2020 and 2021 I had it; the code was J45.909.",
        "Platelets 250 000 and ferritin 1,234.56 at age 45.",
    ],
)
def test_doses_dates_and_results_stay(text: str) -> None:
    assert redact(text) == (text, {"email": 0, "phone": 0})


def test_all_columns_are_counted_together() -> None:
    rows = pl.DataFrame({"question": ["a@b.example"], "answer": ["c@d.example or 020 7946 0182"], "context": ["none"]})
    after, counts = privacy.redact(rows)
    assert counts == {"email": 2, "phone": 1}
    assert after["answer"][0] == "[EMAIL] or [PHONE]"


def redacted(text: str) -> tuple[str, dict[str, int]]:
    rows, counts = privacy.redact(pl.DataFrame({"question": [text], "answer": [""]}))
    return rows["question"][0], counts


@pytest.mark.parametrize(
    "number",
    [
        "9876543210",
        "98765-43210",
        "+91 98765 43210",
        "555-010-0123",
        "202.555.0123",
        "1-800-555-0123",
        "+1-202-555-0123",
        "8-495-123-45-67",
        "01 23 45 67 89",
        "+33 1 23 45 67 89",
        "+44 (0)20 7946 0123",
        "044-12345678",
        "612 345 678",
    ],
)
def test_numbers_of_other_countries_are_phones_too(number: str) -> None:
    assert redacted(f"Ring {number}, please.") == ("Ring [PHONE], please.", {"email": 0, "phone": 1})


@pytest.mark.parametrize(
    "text",
    [
        "It was 2023-01-15 10:30 when it began.",
        "Seen on 15.01.2023 12.30 and on 15-01-2023 08.15.",
        "In 2019 2020 2021 and 2015-2016-2017.",
        "Take 100 200 300 mg, or 10-20-30-40-50.",
        "Platelets 150000-450000 (150000-450000) or 150 000 - 450 000.",
        "White cells 4000-11000.",
        "Codes 250.00 401.9 272.4 and E11.9 J45.909 I10.",
        "Doses of 0.5 1.0 1.5 2.0 3.0 mg.",
        "Between 0 1 2 3 4 5 6 7 8 9 10.",
        "Saturation 98 97 96 95 94, glucose 110 125 140 180.",
        "Cycles of 28 30 27 31 29 days.",
        "Order 12345678 and card 12345678901234567890.",
    ],
)
def test_what_a_record_is_full_of_is_no_phone_number(text: str) -> None:
    assert redacted(text) == (text, {"email": 0, "phone": 0})


def test_a_date_beside_a_phone_number_stays_and_does_not_hide_it() -> None:
    assert redacted("Called 15-01-2023 07700 900123 again")[0] == "Called 15-01-2023 [PHONE] again"
    assert redacted("Called 07700 900123 2023-01-15 again")[0] == "Called [PHONE] 2023-01-15 again"


def test_two_phone_numbers_side_by_side_are_two() -> None:
    assert redacted("9876543210 9876543211") == ("[PHONE] [PHONE]", {"email": 0, "phone": 2})


def test_redacting_twice_finds_nothing_more() -> None:
    once, _ = redacted("a@b.example or 020 7946 0182")
    assert redacted(once) == (once, {"email": 0, "phone": 0})
