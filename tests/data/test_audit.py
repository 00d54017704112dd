from __future__ import annotations

import os
import subprocess
import sys

import pytest

from residency.data import audit

STOCK = "For further information consult a neurologist online -->"


def test_sentences_that_recur_are_named_with_their_share() -> None:
    answers = [f"Case {n} needs rest. {STOCK}" for n in range(4)] + [f"Case {n} needs water." for n in range(4, 10)]
    (found,) = audit.boilerplate(answers)
    assert found == {"text": STOCK, "rows": 4, "share": 0.4}


def test_a_sentence_twice_in_one_answer_counts_once() -> None:
    assert audit.boilerplate([f"{STOCK} {STOCK}", STOCK, "Something else is here."]) == []


def test_short_sentences_are_no_boilerplate() -> None:
    assert audit.boilerplate(["Hello there. Case one is odd."] * 1 + ["Hello there."] * 9) == []


def test_lengths_are_percentiles_and_a_total() -> None:
    found = audit.lengths(list(range(1, 101)))
    assert found["median"] == 50.5
    assert found["longest"] == 100
    assert found["total"] == 5050
    assert audit.lengths([]) == {}


def test_every_length_is_in_the_histogram() -> None:
    found = audit.histogram([3, 5, 5, 90])
    assert sum(found["counts"]) == 4
    assert len(found["edges"]) == len(found["counts"]) + 1


@pytest.mark.parametrize("hash_seed", ["1", "3"])
def test_sentences_equally_common_keep_the_order_of_the_text_in_every_process(hash_seed: str) -> None:
    code = "from residency.data import audit; print([b['text'] for b in audit.boilerplate(['%s'] * 4)])"
    texts = ["First we rest a lot.", "Second we drink some water.", "Third we call a doctor."]
    found = subprocess.run(
        [sys.executable, "-c", code % " ".join(texts)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(texts)


def test_boilerplate_needs_three_answers_and_one_in_a_hundred() -> None:
    stock = "Please do ask me again."
    assert audit.boilerplate([stock] * 2) == []
    assert len(audit.boilerplate([stock] * 3)) == 1
    assert audit.boilerplate([stock] * 3 + ["None."] * 400) == []
