from __future__ import annotations

from residency.evaluate.compare import Question
from residency.prompts import Before
from residency.recipe import Recipe
from residency.study.build import NOTES, instruction_of, put
from residency.study.ways import WAYS
from residency.workspace import Dialogue

FOUND = [
    Dialogue(1, "What helps against fever?", "Rest."),
    Dialogue(2, "And at night?", "Sleep.", turn=1, history=(("Is a cough bad?", "No."),)),
]
ASKED = Question(9, "What helps against a cold?", "Tea.", Before("Be kind.", (("Hello", "Good day."),)))


def asked(way: str, words: int = 1000) -> tuple[Before, int, int]:
    """What a way puts before the question where so many words fit into a prompt."""

    def fits(question: str, before: Before) -> bool:
        turns = " ".join(part for turn in before.turns for part in turn)
        return len(f"{before.system} {turns} {question}".split()) <= words

    made = put(WAYS[way], ASKED, FOUND, "Answer briefly.", fits)
    return made.question.before, made.proposed, made.taken


def test_base_and_tuned_are_asked_the_plain_question() -> None:
    for way in ("base", "lora", "full"):
        assert asked(way) == (ASKED.before, 0, 0)


def test_an_instruction_follows_the_system_message_that_is_there() -> None:
    assert asked("instruction") == (Before("Be kind.\n\nAnswer briefly.", ASKED.before.turns), 1, 1)


def test_examples_are_earlier_turns_with_the_nearest_last_and_the_own_conversation_after_them() -> None:
    before, proposed, taken = asked("few-shot")
    assert before.turns == (
        ("Is a cough bad?", "No."),
        ("And at night?", "Sleep."),
        ("What helps against fever?", "Rest."),
        ("Hello", "Good day."),
    )
    assert (before.system, proposed, taken) == ("Be kind.", 2, 2)


def test_notes_stand_in_the_system_message_nearest_first() -> None:
    before, _, taken = asked("bm25")
    assert before.system == f"Be kind.\n\n{NOTES}\n\nWhat helps against fever?\nRest.\n\nAnd at night?\nSleep."
    assert before.turns == ASKED.before.turns
    assert taken == 2


def test_what_does_not_fit_is_left_out_whole_and_counted_and_a_shorter_one_after_it_may_still_fit() -> None:
    # Its own words are 10; the nearest example has 5 more, the second one with its history 9.
    assert asked("few-shot", words=10) == (ASKED.before, 2, 0)
    before, proposed, taken = asked("few-shot", words=19)
    assert (proposed, taken) == (2, 1)
    assert before.turns == (("What helps against fever?", "Rest."), ("Hello", "Good day."))
    longer = [Dialogue(1, "long " * 50, "x"), FOUND[0]]
    made = put(WAYS["few-shot"], ASKED, longer, "", lambda question, before: len(str(before)) < 200)
    assert (made.proposed, made.taken) == (2, 1)
    assert made.question.before.turns[0] == ("What helps against fever?", "Rest.")


def test_the_instruction_is_the_recipes_or_says_the_datas_subject_and_length() -> None:
    recipe = Recipe.parse({"name": "x", "data": {"source": "clinic"}})
    sources = [Dialogue(row, f"What is glaucoma of kind {row}?", "word " * 42) for row in range(5)]
    made = instruction_of(recipe, sources)
    assert "about 40 words" in made
    assert "glaucoma, kind" in made
    own = Recipe.parse({"name": "x", "data": {"source": "clinic"}, "study": {"instruction": "In one line."}})
    assert instruction_of(own, sources) == "In one line."
