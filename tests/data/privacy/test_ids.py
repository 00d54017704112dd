from __future__ import annotations

import pytest

from residency.data.privacy import redacted

ID = "[NATIONAL_ID]"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("SSN 123-45-6789", f"SSN {ID}"),
        ("social security number 123456789", f"social security number {ID}"),
        ("social security number 123 45 6789", f"social security number {ID}"),
        ("NHS number 943 476 5919", f"NHS number {ID}"),
        ("NHS 9434765919", f"NHS {ID}"),
        ("NI number AB123456C, AB 12 34 56 C", f"NI number {ID}, {ID}"),
        ("Steuer-ID 86095742719", f"Steuer-ID {ID}"),
        ("Steueridentifikationsnummer 65 929 970 489", f"Steueridentifikationsnummer {ID}"),
        ("NIR 2 55 08 14 168 025 38, 255081416802538", f"NIR {ID}, {ID}"),
        ("NIR 253072A07300443", f"NIR {ID}"),
        ("DNI 12345678Z, 12.345.678-Z", f"DNI {ID}, {ID}"),
        ("NIE X1234567L", f"NIE {ID}"),
        ("RSSMRA85T10A562S", ID),
        ("BSN 111222333, 1112.22.333", f"BSN {ID}, {ID}"),
        ("Aadhaar 2341 2341 2346", f"Aadhaar {ID}"),
        ("aadhar no. 234123412346", f"aadhar no. {ID}"),
    ],
)
def test_an_identity_number_is_replaced(text: str, after: str) -> None:
    assert redacted(text) == after


@pytest.mark.parametrize(
    "text",
    [
        "SSN 666-45-6789",
        "NI number QQ 12 34 56 C",
        "2 55 08 14 168 025 39",
        "12345678A",
        "X1234567A",
        "RSSMRA85T10A562T",
        "case 111222333 4 5",
        "2341 2341 2347",
        "2000 2500 3000",
    ],
)
def test_a_number_with_a_wrong_check_digit_or_unexplained_is_none(text: str) -> None:
    assert "[NATIONAL_ID" not in redacted(text)
