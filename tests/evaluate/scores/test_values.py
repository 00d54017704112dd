from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sacrebleu
from transformers import AutoTokenizer

from residency import embeddings
from residency.evaluate.answers.generate import Answer
from residency.evaluate.scores import corpus
from residency.evaluate.scores.measure import differences, intervals
from residency.evaluate.scores.values import Facts, learnt_bytes, likelihood_measures, measures, similarity, values
from residency.prompts import Prompt
from residency.recipe import PromptSection


@dataclass(frozen=True)
class Asked:
    reference: str


REFERENCES = [
    "Rest, and drink enough water for two days. See a doctor if the fever is above 39 degrees.",
    "A rash that does not itch is rarely serious; wash it with cold water and wait for a week.",
    "Call the clinic at once if there is pain in the chest, and do not drive there by yourself.",
    "Take the tablets with food.",
]
TEXTS = [
    "Rest and drink enough water. See a doctor if the fever is above 39 degrees for two days.",
    "It is a rash. It is a rash. It is a rash. It is a rash. It is a rash.",
    "",
    "Take the tablets with food.",
]
TESTS = [Asked(reference) for reference in REFERENCES]
ANSWERS = [Answer(text, len(text.split()), place != 1) for place, text in enumerate(TEXTS)]
FACTS = Facts(boilerplate=["Take the tablets"], training=lambda: [REFERENCES[3], "the fever is above 39 degrees"])


def test_each_answer_has_a_value_of_each_metric() -> None:
    found = values(ANSWERS, TESTS, FACTS)
    assert {len(own) for own in found.values()} == {4}
    assert found["exact_match"] == [0, 0, 0, 1]
    assert found["token_f1"][3] == found["copied"][3] == 1
    assert found["copied_words"] == [6, 1, 0, 5]
    assert found["copied"][0] == pytest.approx(6 / 18)
    assert found["stopped"] == [1, 0, 1, 1]
    assert found["repetition"] == [0, 1, 0, 0]
    assert found["boilerplate"] == [0, 0, 0, 1]
    assert found["empty"] == [0, 0, 1, 0]
    assert found["rouge_1"][3] == found["rouge_2"][3] == found["rouge_l"][3] == 100
    assert "similarity" not in found


def test_corpus_scores_are_sacrebleus_with_its_signatures() -> None:
    found = corpus.corpus(TEXTS, REFERENCES)
    assert found["corpus_bleu"].value == pytest.approx(sacrebleu.corpus_bleu(TEXTS, [REFERENCES]).score)
    assert found["corpus_chrf"].value == pytest.approx(sacrebleu.corpus_chrf(TEXTS, [REFERENCES]).score)
    told = corpus.signatures()
    assert told["corpus_bleu"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert told["bleu"].startswith("nrefs:1|case:mixed|eff:yes|tok:13a")
    assert (
        told["chrf"]
        == told["corpus_chrf"]
        == (f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}")
    )


def test_a_corpus_score_of_a_resample_is_that_of_the_answers_drawn() -> None:
    found = corpus.corpus(TEXTS, REFERENCES)
    drawn = [0, 0, 1, 3]
    times = np.array([[2.0, 1.0, 0.0, 1.0]])
    own, theirs = [TEXTS[place] for place in drawn], [[REFERENCES[place] for place in drawn]]
    assert found["corpus_bleu"].over(times)[0] == pytest.approx(sacrebleu.corpus_bleu(own, theirs).score)
    assert found["corpus_chrf"].over(times)[0] == pytest.approx(sacrebleu.corpus_chrf(own, theirs).score)


def test_numbers_over_all_answers_have_intervals_too() -> None:
    own = measures(values(ANSWERS, TESTS, FACTS), ANSWERS, TESTS, FACTS)
    found = intervals(own, 200)
    assert {"corpus_bleu", "corpus_chrf", "distinct_1", "distinct_2", "length_ratio", "reading_ease"} <= set(found)
    for name, one in found.items():
        assert one.low - 1e-9 <= one.high, name
    assert found["length_ratio"].mean == pytest.approx(len(" ".join(TEXTS).split()) / len(" ".join(REFERENCES).split()))
    words = " ".join(TEXTS).lower().split()
    assert found["distinct_1"].mean == pytest.approx(len(set(words)) / len(words))


def test_reading_ease_is_measured_of_english_alone_and_of_nothing_empty() -> None:
    own = values(ANSWERS, TESTS, FACTS)
    other = Facts(english=False)
    assert "reading_ease" not in measures(own, ANSWERS, TESTS, other)
    silent = [Answer("", 0, True)] * 4
    assert "reading_ease" not in intervals(measures(values(silent, TESTS, FACTS), silent, TESTS, FACTS), 50)


def test_a_byte_compares_tokenizers_where_a_token_does_not() -> None:
    """The same model text by text, once cut into tokens and once into twice as many."""
    coarse = likelihood_measures([(12.0, 4), (30.0, 10)], [20, 50])
    fine = likelihood_measures([(12.0, 8), (30.0, 20)], [20, 50])
    assert coarse["answer_nll"].value == pytest.approx(3.0)
    assert fine["answer_nll"].value == pytest.approx(1.5)
    assert coarse["answer_nll_byte"].value == fine["answer_nll_byte"].value == pytest.approx(0.6)
    assert coarse["perplexity"].value == pytest.approx(math.exp(3.0))
    assert coarse["perplexity_byte"].value == pytest.approx(math.exp(0.6))
    assert differences(coarse, fine, 100)["answer_nll_byte"].mean == 0


def test_the_interval_of_a_perplexity_is_the_exponential_of_its_nlls() -> None:
    found = intervals(likelihood_measures([(12.0, 4), (30.0, 6), (2.0, 5)], [20, 30, 30]), 300)
    for end in ("mean", "low", "high"):
        assert getattr(found["perplexity"], end) == pytest.approx(math.exp(getattr(found["answer_nll"], end)), rel=0.02)


def test_bytes_are_those_of_what_was_learnt(neox_folder: Any) -> None:
    prompt = Prompt.build(PromptSection(), AutoTokenizer.from_pretrained(neox_folder))
    reference = "Ruhe für einen Tag, dann Wasser."
    whole = prompt.answer_example("What now?", reference)
    assert learnt_bytes(prompt, whole, reference) == len(reference.encode()) == len(reference) + 1
    cut = prompt.answer_example("What now?", reference, len(whole) - 6)
    assert 0 < learnt_bytes(prompt, cut, reference) < len(reference)


@pytest.mark.skipif(not embeddings.available(), reason="the extra residency[embeddings] is not installed")
def test_what_means_the_same_is_more_alike_than_what_does_not() -> None:
    same, other, empty = similarity(
        ["Drink plenty of water and take it easy.", "The stock market closed higher.", ""],
        ["You should rest and keep hydrated."] * 3,
    )
    assert same > other + 0.3
    assert empty == 0
    assert "similarity" in values(ANSWERS, TESTS, Facts(similarity=True))
