from __future__ import annotations

import numpy as np
import pytest

from residency.evaluate.scores.reading import reading_counts, reading_ease, syllables

# As the CMU pronouncing dictionary has them.
CMU = {
    1: "rest drink take eyes asked blue through bones called",
    2: "doctor fever water table causes wanted patient people something being spasm tissue diet cancer",
    3: "medical video area usual idea condition",
    4: "emergency information operation medication available",
    5: "examination immunizations",
}


@pytest.mark.parametrize("count", CMU)
def test_syllables_are_those_of_a_dictionary(count: int) -> None:
    words = CMU[count].split()
    assert {word: syllables(word) for word in words} == dict.fromkeys(words, count)


def test_every_word_has_a_syllable_and_a_compound_has_those_of_its_parts() -> None:
    assert syllables("mm") == syllables("the") == 1
    assert syllables("follow-up") == 3
    assert syllables("don't") == 1


def test_reading_ease_is_fleschs_formula() -> None:
    assert reading_counts("The cat sat on the mat.") == (6, 1, 6)
    assert reading_ease(np.array([[6.0, 1, 6]]))[0] == pytest.approx(116.145)
    hard = reading_counts("Pharmacological interventions necessitate individualised consideration.")
    assert reading_ease(np.array([hard], dtype=float))[0] < 0


def test_sentences_end_at_marks_and_at_line_breaks_and_not_in_numbers() -> None:
    assert reading_counts("Rest now! Is it 38.5 degrees? (Call us.) Well")[1] == 4
    assert reading_counts("You need:\n- rest\n- water\n\n---\n")[1] == 3


def test_what_has_no_words_has_no_reading_ease() -> None:
    assert reading_counts("") == reading_counts(" 12 -- 7.5!\n") == (0, 0, 0)
    assert np.isnan(reading_ease(np.zeros((1, 3)))[0])
