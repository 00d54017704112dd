from __future__ import annotations

import pytest

from residency.data.privacy import redacted


@pytest.mark.parametrize(
    "number",
    [
        "020 7946 0182",
        "+44 20 7946 0417",
        "+44 (0)20 7946 0123",
        "0044 20 7946 0182",
        "07700 900 461",
        "(555) 010-0143",
        "555-010-0123",
        "202.555.0123",
        "1-800-555-0123",
        "+1-202-555-0123",
        "+15550100199",
        "1 (888) 998-6325",
        "9876543210",
        "98765-43210",
        "+91 98765 43210",
        "044-12345678",
        "8-495-123-45-67",
        "01 23 45 67 89",
        "+33 1 23 45 67 89",
        "(11) 98765-4321",
        "+90 532 123 45 67",
        "+380 50 123 45 67",
        "020\u00a07946\u00a00182",
        "٠٢٠ ٧٩٤٦ ٠١٨٢",
        "＋44 20 7946 0182",
    ],
)
def test_a_number_of_any_country_becomes_a_placeholder(number: str) -> None:
    assert redacted(f"Ring {number}, please.") == "Ring [PHONE], please."
    assert redacted(f"{number} and then rest") == "[PHONE] and then rest"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("9876543210/9876543211", "[PHONE_1]/[PHONE_2]"),
        ("9876543210,9876543211", "[PHONE_1],[PHONE_2]"),
        ("9876543210, 9876543211", "[PHONE_1], [PHONE_2]"),
        ("020 7946 0182,020 7946 0183", "[PHONE_1],[PHONE_2]"),
        ("07700 900 461,07700 900 462", "[PHONE_1],[PHONE_2]"),
        ("98765 43210 98765 43211", "[PHONE_1] [PHONE_2]"),
        ("9876543210 9876543210", "[PHONE] [PHONE]"),
        ("Called 15-01-2023 07700 900123 again", "Called 15-01-2023 [PHONE] again"),
        ("Called 07700 900123 2023-01-15 again", "Called [PHONE] 2023-01-15 again"),
        ("call 404 639 1075 24 hours a day", "call [PHONE] 24 hours a day"),
    ],
)
def test_numbers_side_by_side_are_told_apart(text: str, after: str) -> None:
    assert redacted(text) == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("Call 555-0123 now", "Call [PHONE] now"),
        ("Ph: 2345 6789", "Ph: [PHONE]"),
        ("Ph.9876543210", "Ph.[PHONE]"),
        ("Mob-9876543210", "Mob-[PHONE]"),
        ("Tel:+49 171 1234567.", "Tel:[PHONE]."),
        ("(404 639 1075)", "([PHONE])"),
        ("123 456 789", "123 456 789"),
        ("call 123 456 789", "call [PHONE]"),
        ("Ring 612 345 678, please.", "Ring [PHONE], please."),
        ("a dose of 555-0123 now", "a dose of 555-0123 now"),
    ],
)
def test_a_word_like_call_makes_a_number_of_fewer_digits(text: str, after: str) -> None:
    assert redacted(text) == after


@pytest.mark.parametrize(
    "text",
    [
        "My pressure was 120/80 on 2023-01-15 and 130/85 after.",
        "BP 120/80, 130/85 and 140/90",
        "Take 500 mg twice a day for 10 days.",
        "In 2019, 2020 and 2021 I had it; the code was J45.909.",
        "In 2019 2020 2021 and 2015-2016-2017.",
        "It was 2023-01-15 10:30 when it began.",
        "Seen on 15.01.2023 12.30 and on 15-01-2023 08.15.",
        "Take 100 200 300 mg, or 10-20-30-40-50.",
        "White cells 4000-11000.",
        "Codes 250.00 401.9 272.4 and E11.9 J45.909 I10.",
        "Doses of 0.5 1.0 1.5 2.0 3.0 mg.",
        "dose 0.25-0.5-1.0-1.5-2.0",
        "Between 0 1 2 3 4 5 6 7 8 9 10.",
        "Saturation 98 97 96 95 94, glucose 110 125 140 180.",
        "Cycles of 28 30 27 31 29 days.",
        "Order 12345678 and card 12345678901234567890.",
        "150 8 11 175 9 12 200 10 14 225 11 16 250 13",
        "readings 123 145 167 mg/dl",
        "120 80 98 36 16",
        "01 02 03 04",
        "08.30 12.30 16.30 20.30",
        "2000 2500 3000 3500",
        "1.5-2.5 3.5-4.5 10.5",
        "hCG 1234 2456 5012 10400 mIU/ml",
        "HCG levels 1254, 2508, 5016, 10032",
        "TSH 4.25 0.34-5.60 T3 120 80-200",
        "I am 24 yrs old 5'8 150 160 170",
        "4 pm to 10 pm 12-13-14-15-16",
        "WBC 10500, RBC 4500000, Plt 350000",
        "10000000000 CFU",
        "250000000 cells",
        "$1000000000",
        "ratio 1:1000000",
        "0.123456789",
        "3.14159265358",
        "p = 0.00012345678",
        "Lancet (2019) 394 1145-1158",
        "L4-L5-S1 10-12-2019",
        "38+6 weeks, 39+2",
        "G2P1, 12+3 weeks",
        "age 45, 2 x 500 mg, 3 x 250 mg",
    ],
)
def test_doses_results_and_years_are_no_phone_numbers(text: str) -> None:
    assert redacted(text) == text
