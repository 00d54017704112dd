from __future__ import annotations

import json
import math
import os
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from residency.evaluate.faults.cases import Case, Known, Weights
from residency.evaluate.faults.copied import copies
from residency.evaluate.faults.kinds import KINDS, kind_of
from residency.evaluate.faults.rules import CATEGORIES, found

MEDQUAD = Path(os.environ.get("RESIDENCY_MEDQUAD", "medquad.parquet"))  # the data set's file; not part of this
MEASURED = 500
PEOPLE = ("loop", "empty", "refuses", "leaks the template", "wrong language", "unsafe", "copied")
REFERENCE = (
    "Asthma is treated with inhaled medicines. A reliever inhaler opens the airways within minutes, and a preventer "
    "inhaler, used every day, calms the swelling. See a doctor if you need the reliever more than three times a week."
)
CLINIC = (resources.files("residency") / "assets" / "clinic.jsonl").read_text("utf-8")
TRAINING = [f"{row['Description']} {row['Doctor']}" for row in map(json.loads, CLINIC.splitlines())]
KNOWN = Known(
    boilerplate=("I hope this helps you a lot.",),
    marks=("### Question:", "### Answer:"),
    language="en",
    shortest=8,
    longest=60,
    weights=Weights.of(TRAINING),
)
ASKED = "How is asthma treated in adults?"
LONG_COPY = (
    "Gout comes with sudden and severe pain in one joint, most often at the root of the big toe, which turns red and "
    "hot and cannot bear even the weight of a bed sheet at night."
)


def faults(category: str, text: str, question: str = ASKED, reference: str = REFERENCE, stopped: bool = True) -> bool:
    """Whether a category's rules find something in an answer."""
    ((copy),) = copies([(text, reference)], [(7, LONG_COPY)])
    return bool(found(CATEGORIES[category], Case(question, text, reference, stopped, copy.share, KNOWN)))


@pytest.mark.parametrize(
    "text",
    [
        "Use an inhaler. " * 8,
        "The treatment of asthma is the treatment of asthma is the treatment of asthma is the treatment of asthma is",
        "no " * 20,
        "It may be mild." + "\n- rest\n- water\n- sleep" * 4,
    ],
)
def test_a_phrase_three_times_running_is_a_loop(text: str) -> None:
    assert faults("loop", text)


@pytest.mark.parametrize(
    "text",
    [
        REFERENCE,
        "Yes, yes, yes.",
        "Take it in the morning, at noon and at night.",
        "Very, very slowly, then, very slowly.",
    ],
)
def test_saying_something_twice_is_no_loop(text: str) -> None:
    assert not faults("loop", text)


@pytest.mark.parametrize("text", ["", "   ", "...", "-\n-\n", "…!?"])
def test_an_answer_without_a_letter_is_empty(text: str) -> None:
    assert faults("empty", text)


@pytest.mark.parametrize("text", ["No.", "5", "да", "喘息です", REFERENCE])
def test_one_word_or_number_is_an_answer(text: str) -> None:
    assert not faults("empty", text)


def test_only_an_answer_that_did_not_end_ran_to_the_limit() -> None:
    assert faults("ran to the limit", "The airways are", stopped=False)
    assert faults("ran to the limit", "", stopped=False)
    assert not faults("ran to the limit", "The airways are")
    assert not faults("ran to the limit", REFERENCE)


def test_a_sentence_that_the_training_data_repeats_is_boilerplate() -> None:
    for text in (
        "I hope this helps you a lot.",
        "Use an inhaler. I hope this helps you a lot.",
        "I hope this helps you a lot. Regards",
        "So: I hope this helps you a lot. Use an inhaler.",
    ):
        assert faults("boilerplate", text)
    for text in ("I hope so.", "This helps you a lot.", "I hope this helps.", REFERENCE):
        assert not faults("boilerplate", text)


@pytest.mark.parametrize(
    "text",
    [
        "Gout comes with sudden pain and swelling of a joint, often the big toe, which turns red and hot at night.",
        "The capital of France is Paris, a city on the river Seine with many famous museums and old churches.",
        "Eczema makes skin dry and itchy; moisturisers calm itching, and scratching at night makes everything worse.",
        "Migraine runs in families and nobody knows for sure why the attacks of headache come and pass again.",
    ],
)
def test_an_answer_about_something_else_is_off_topic(text: str) -> None:
    assert faults("off topic", text)


@pytest.mark.parametrize(
    "text",
    [
        REFERENCE,
        "Asthma is a disease of the lungs that is found in children and in grown people all over the world.",
        "With a reliever inhaler that opens the airways, and a preventer inhaler that calms the swelling each day.",
        "It depends.",
        "Doctors treat asthma in steps, and adults begin with the lowest dose of a steroid that helps them.",
    ],
)
def test_an_answer_that_names_the_subject_or_shares_the_references_words_is_on_topic(text: str) -> None:
    assert not faults("off topic", text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "As an AI language model, I do not have access to your records.",
        "I am not able to provide medical advice. Please see a doctor.",
        "I don't have enough information to answer that.",
        "Sorry, this is beyond my scope.",
        "I cannot answer this question.",
    ],
)
def test_declining_to_answer_is_a_refusal(text: str) -> None:
    assert faults("refuses", text)


@pytest.mark.parametrize(
    "text",
    [
        REFERENCE,
        "I can't tell without seeing the rash, but scabies itches most at night and spreads between people who share a "
        "bed, so look for burrows between the fingers and treat everybody in the house on the same day with the cream, "
        "washing sheets and clothes hot; the itch may go on for two weeks after.",
        "You can't catch asthma from others.",
        "If you cannot answer the door without losing your breath, call an ambulance.",
        "No, it does not help.",
    ],
)
def test_a_caveat_before_advice_is_no_refusal(text: str) -> None:
    assert not faults("refuses", text)


@pytest.mark.parametrize(
    "text",
    [
        "Use an inhaler.<|im_end|>",
        "Use an inhaler.\n\n### Question:\nWhat is gout?",
        "Use an inhaler.\nuser\nWhat is gout?",
        "[INST] What is gout? [/INST]",
        "Use an inhaler.\nAssistant: And rest.",
        "{answer}",
    ],
)
def test_parts_of_a_prompt_in_an_answer_are_leaks(text: str) -> None:
    assert faults("leaks the template", text)


@pytest.mark.parametrize(
    "text",
    [
        REFERENCE,
        "The user: a person who inhales.",
        "Ask your medical assistant how to use it.",
        "The question is: does it help? The answer is yes.",
        "An FEV1 < 80% and > 50% is moderate; see table [1].",
    ],
)
def test_the_same_words_in_a_sentence_are_none(text: str) -> None:
    assert not faults("leaks the template", text)


@pytest.mark.parametrize(
    "text",
    [
        "Asthma wird mit Medikamenten zum Einatmen behandelt, die die Atemwege weiten und die Schwellung lindern.",
        "L'asthme se soigne avec des médicaments inhalés qui ouvrent les voies respiratoires en quelques minutes.",
        "El asma se trata con medicamentos inhalados que abren las vías respiratorias en pocos minutos.",
        "哮喘是用吸入药物治疗的，这些药物可以在几分钟内打开气道。",
    ],
)
def test_an_answer_in_another_language_is_found(text: str) -> None:
    assert faults("wrong language", text)


def test_the_references_own_language_and_names_in_latin_are_in_order() -> None:
    german = "Asthma wird mit Medikamenten zum Einatmen behandelt, die die Atemwege weiten und die Schwellung lindern."
    assert not faults("wrong language", german, reference=german)
    for text in (
        REFERENCE,
        "Salbutamol.",
        "Patent ductus arteriosus",
        "Budesonide and formoterol, inhaled twice a day.",
    ):
        assert not faults("wrong language", text)


def test_lengths_are_measured_by_the_reference_and_by_the_training_answers() -> None:
    for text in ("Inhalers.", "With inhaled medicines.", "See a doctor.", "It is treated with medicines."):
        assert faults("too short", text)
        assert not faults("too short", text, reference="With inhalers.")
    assert not faults("too short", "")  # that is empty
    assert not faults("too short", "Use an", stopped=False)  # that ran to the limit
    assert not faults("too short", REFERENCE)
    long = " ".join(f"Word {n} of many." for n in range(30))
    assert faults("too long", long, reference="By inhalers that open the airways.")
    assert not faults("too long", long)
    assert not faults("too long", "By inhalers, for most.", reference="Yes.")


def test_a_training_answer_word_for_word_is_a_copy() -> None:
    assert faults("copied", LONG_COPY)
    assert faults("copied", "Well. " + LONG_COPY.upper())
    assert faults("copied", LONG_COPY + " It then passes within a week or two.")
    assert faults("copied", LONG_COPY.replace(",", ""))


def test_a_few_words_of_a_training_answer_or_the_references_own_are_no_copy() -> None:
    assert not faults("copied", "Gout comes with sudden and severe pain in one joint, most often the big toe.")
    assert not faults("copied", LONG_COPY, reference=LONG_COPY)
    assert not faults("copied", REFERENCE)
    several = copies([(LONG_COPY, "")], [(row, LONG_COPY) for row in (1, 2, 3)])
    assert several[0].share == 0  # three rows have it: boilerplate, and nobody's own


def test_the_copied_row_is_named_whatever_the_order() -> None:
    other = "Asthma is something else altogether and has nothing to do with toes or with sheets at night."
    assert [
        copies([(LONG_COPY, "")], rows)[0].row for rows in ([(7, LONG_COPY), (9, other)], [(9, other), (7, LONG_COPY)])
    ] == [7, 7]


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (ASKED, "How is asthma treated in adults?"),
        (ASKED, "In adults, how is asthma treated?"),
        ("What are the symptoms of gout in men?", "What are the symptoms of gout in men"),
        ("Can a child with a fever go to school?", "A child with a fever can go to school?"),
    ],
)
def test_saying_the_question_again_is_a_copy(question: str, text: str) -> None:
    assert faults("copied", text, question)


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Can a child with a fever go to school?", "No, a child with a fever can not go to school."),
        (ASKED, "In adults asthma is treated with inhaled steroids and relievers."),
        ("How many bones does a grown person have?", "A grown person does have 206 bones."),
        ("Why?", "Why?"),
    ],
)
def test_an_answer_that_takes_up_the_question_is_none(question: str, text: str) -> None:
    assert not faults("copied", text, question)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("What is (are) Glaucoma ?", "definition"),
        ("Do you have information about Anatomy", "definition"),
        ("What are the symptoms of Kabuki syndrome ?", "symptoms"),
        ("What causes Gout ?", "causes"),
        ("Who is at risk for Leprosy? ?", "causes"),
        ("Is Aarskog syndrome inherited ?", "causes"),
        ("What are the treatments for Asthma ?", "treatment"),
        ("How to diagnose Crohn's Disease ?", "diagnosis"),
        ("What is the outlook for Stroke ?", "prognosis"),
        ("How to prevent Dengue ?", "how-to"),
        ("What are the side effects of Ibuprofen ?", "medication"),
        ("Can I take 400 mg of ibuprofen with a cold?", "medication"),
        ("what research (or clinical trials) is being done for Ataxia ?", "other"),
        ("How many people are affected by Barth syndrome ?", "other"),
        ("Was hilft gegen Husten?", "other"),
    ],
)
def test_questions_are_told_apart_by_what_they_ask_for(question: str, kind: str) -> None:
    assert kind_of(question) == kind
    assert kind in KINDS


@pytest.fixture(scope="module")
def people() -> list[Case]:
    """500 of MedQuAD's references as if a model had said them, beside training answers of other questions."""
    if not MEDQUAD.is_file():
        pytest.skip("RESIDENCY_MEDQUAD names no file of the data set")
    rows = pl.read_parquet(MEDQUAD).drop_nulls().unique("question", keep="first", maintain_order=True)
    rows = rows.sample(2500, seed=1, shuffle=True)
    held, training = rows.head(MEASURED), rows.tail(2000)
    answers = list(held.select("question", "answer").iter_rows())
    known = Known(
        language="en", weights=Weights.of(f"{q} {a}" for q, a in training.select("question", "answer").iter_rows())
    )
    own = copies([(answer, "") for _, answer in answers], enumerate(training["answer"], start=1))
    return [Case(q, a, known=known, copied=copy.share) for (q, a), copy in zip(answers, own, strict=True)]


# The share of people's own answers in which a rule may find something; docs/faults.md has what was measured.
MOST = {"copied": 0.03}


@pytest.mark.parametrize("category", PEOPLE)
def test_peoples_own_answers_raise_hardly_an_alarm(category: str, people: list[Case]) -> None:
    alarms = np.mean([bool(found(CATEGORIES[category], case)) for case in people])
    assert alarms <= MOST.get(category, 0.005)


def test_half_of_a_reference_is_on_topic_beside_the_other_and_of_another_question_mostly_off(
    people: list[Case],
) -> None:
    own, other = [], []
    long = [case for case in people if len(case.text.split()) > 40]
    for case, wrong in zip(long, [*long[1:], long[0]], strict=True):
        middle = len(case.text) // 2
        own.append(Case(case.question, case.text[:middle], case.text[middle:], known=case.known))
        other.append(Case(case.question, wrong.text[: len(wrong.text) // 2], case.text[middle:], known=case.known))
    alarms = [np.mean([bool(found(CATEGORIES["off topic"], one)) for one in cases]) for cases in (own, other)]
    assert alarms[0] <= 0.02
    assert alarms[1] >= 0.75


def test_weights_of_no_examples_say_nothing() -> None:
    assert Weights.of([]).share("asthma", "gout") == 1.0
    assert math.isclose(Weights.of(TRAINING).share("asthma", "Asthma's"), 1.0)
