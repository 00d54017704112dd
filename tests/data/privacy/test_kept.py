from __future__ import annotations

import pytest

from residency.data.privacy import redacted


@pytest.mark.parametrize(
    "text",
    [
        "ISBN 978-0-306-40615-7",
        "978-0-306-40615-7",
        "9780306406157",
        "ISBN 0-306-40615-2",
        "doi:10.1016/j.cell.2019.01.001",
        "10.1001/jama.2020.1234567",
        "N Engl J Med 2001;345:1359-67",
        "PMID 12345678",
        "NCT01234567",
        "CAS 50-78-2",
        "SNOMED 840539006",
        "ICD-10 E11.9 J45.909 I10 and 250.00 401.9",
        "EC 3.4.21.4",
        "HLA DRB1*03:01:01:01",
    ],
)
def test_publications_and_codes_stay(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "text",
    ["NDC 0002-8215-01", "00093-0058-01", "NDC 00093005801", "12345-678-90", "MD 20892-3655", "NY 10021-7471"],
)
def test_drug_codes_and_postcodes_stay(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "5 000 - 10 000 IU",
        "5 000 to 10 000 IU",
        "5000-10000 IU daily",
        "Platelets 150000-450000 (150000-450000) or 150 000 - 450 000.",
        "Platelets 250 000 and ferritin 1,234.56 at age 45.",
        "100 000 to 150 000 per ml",
        "4 500 000/5 500 000 cells",
        "1,234,567,890 people",
        "1,00,00,000",
        "12,34,56,789",
        "1 000 000 000",
    ],
)
def test_large_numbers_and_ranges_stay(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("text", ["05-01-23 06-02-23", "In 2019, 2020, 2021", "10:30:45", "15.01.2023"])
def test_dates_and_times_stay(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "https://www.nih.gov/article?id=123456789012",
        "https://pubmed.ncbi.nlm.nih.gov/12345678901/",
        "https://x.gov/users/login",
    ],
)
def test_public_web_addresses_stay_with_the_numbers_in_them(text: str) -> None:
    assert redacted(text) == text


def test_what_stands_beside_something_kept_is_found() -> None:
    assert redacted("ISBN 9780306406157, +44 20 7946 0182") == "ISBN 9780306406157, [PHONE]"
    assert redacted("MD 20892-3655 301-496-5248") == "MD 20892-3655 [PHONE]"
