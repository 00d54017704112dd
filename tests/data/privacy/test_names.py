from __future__ import annotations

import importlib.util

import polars as pl
import pytest

from residency.data import privacy
from residency.errors import UserError

MISSING = importlib.util.find_spec("presidio_analyzer") is None
needs_presidio = pytest.mark.skipif(MISSING, reason="names need presidio-analyzer: pip install 'residency[names]'")


def redacted(*texts: str) -> tuple[list[str], dict[str, int]]:
    rows, counts = privacy.redact(pl.DataFrame({"question": [""] * len(texts), "answer": texts}), names=True)
    return rows["answer"].to_list(), counts


@pytest.fixture(scope="module", autouse=True)
def model() -> None:
    if not MISSING:
        import spacy

        if not spacy.util.get_installed_models():
            pytest.skip("names need a spaCy model: python -m spacy download en_core_web_lg")


@pytest.mark.skipif(not MISSING, reason="presidio-analyzer is installed")
def test_without_presidio_the_error_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"presidio-analyzer is not installed.*residency\[names\]"):
        redacted("I am John Smith.")


@needs_presidio
def test_one_person_has_one_placeholder_in_a_row() -> None:
    texts, counts = redacted("I am John Smith. My doctor Angela Brown knows that John Smith sleeps badly.")
    assert texts == ["I am [NAME_1]. My doctor [NAME_2] knows that [NAME_1] sleeps badly."]
    assert counts == {"email": 0, "phone": 0, "name": 3}


@needs_presidio
def test_diseases_that_are_named_after_people_stay() -> None:
    text = "It may be Parkinson's disease, Crohn's disease or Down syndrome."
    assert redacted(text)[0] == [text]


@needs_presidio
def test_what_is_found_otherwise_is_no_name_and_a_second_time_finds_nothing() -> None:
    once, counts = redacted("Dear John Smith, see Dr Maria Garcia at jo@x.example.")
    assert once == ["Dear [NAME_1], see Dr [NAME_2] at [EMAIL]."]
    assert counts == {"email": 1, "phone": 0, "name": 2}
    again, none = redacted(*once)
    assert (again, sum(none.values())) == (once, 0)


@needs_presidio
def test_a_model_that_is_not_there_is_no_download_but_an_error() -> None:
    with pytest.raises(UserError, match="xx_no_model is not installed"):
        privacy.redact(pl.DataFrame({"question": ["x"], "answer": ["y"]}), names="xx_no_model")
