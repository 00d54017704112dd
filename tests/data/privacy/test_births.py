from __future__ import annotations

import pytest

from residency.data.privacy import redacted

DATE = "[BIRTH_DATE]"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("born on 3 May 1961", f"born on {DATE}"),
        ("born 3/5/61", f"born {DATE}"),
        ("born on the 3rd of May, 1961", f"born on the {DATE}"),
        ("DOB: 05/03/1961", f"DOB: {DATE}"),
        ("D.O.B. 1961-05-03", f"D.O.B. {DATE}"),
        ("date of birth is March 5, 1961", f"date of birth is {DATE}"),
        ("date of birth (dd/mm/yyyy): 03/05/1961", f"date of birth (dd/mm/yyyy): {DATE}"),
        ("She was born prematurely on 3 May 2019", f"She was born prematurely on {DATE}"),
        ("My birthday is on 12th June", f"My birthday is on {DATE}"),
        ("geboren am 3. Mai 1961", f"geboren am {DATE}"),
        ("née le 3 mai 1961", f"née le {DATE}"),
        ("geboren op 3 maart 1961", f"geboren op {DATE}"),
        ("nato il 3 maggio 1961", f"nato il {DATE}"),
        ("nacida el 3 de mayo de 1961", f"nacida el {DATE}"),
    ],
)
def test_a_date_after_a_word_of_birth_is_replaced(text: str, after: str) -> None:
    assert redacted(text) == after


@pytest.mark.parametrize(
    "text",
    [
        "born in 1961",
        "born 2 days ago",
        "born at 34 weeks",
        "babies born before 3 May 2010",
        "children born after January 1, 1999",
        "newborn on 3 May 2019",
        "seen on 3 May 2019",
    ],
)
def test_years_ages_and_other_dates_stay(text: str) -> None:
    assert redacted(text) == text
