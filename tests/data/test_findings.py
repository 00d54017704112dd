from __future__ import annotations

import re

import polars as pl
import pytest

from residency.data.findings import RULES, Finding, findings, rows_of
from residency.recipe import DataSection, Recipe

STOCK = "For further information consult a neurologist online -->"


def table(*pairs: tuple[str, str]) -> pl.DataFrame:
    count = len(pairs)
    return pl.DataFrame(
        {
            "row": range(1, count + 1),
            "question": [q for q, _ in pairs],
            "answer": [a for _, a in pairs],
            "prompt_tokens": [10] * count,
            "answer_tokens": [20] * count,
            "cluster": range(count),
        }
    )


GOOD = [
    ("What helps against a blocked nose at night?", "Salt water rinses before bed, and a raised pillow, often do."),
    (
        "How long does a sprained ankle hurt?",
        "Two to six weeks, and less each day; see somebody if you cannot stand on it.",
    ),
    (
        "Is coffee bad for the heart?",
        "In most people three cups a day do no harm at all, and some studies see a benefit.",
    ),
    ("Which foods have iron?", "Red meat, lentils, beans and dark leaves:\n- lentils\n- spinach"),
]


def of_kind(rows: pl.DataFrame, kind: str) -> Finding | None:
    return next((f for f in findings(rows, 100, 0) if f.kind == kind), None)


def test_good_rows_give_no_finding() -> None:
    assert findings(table(*GOOD), 100, 0) == []


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (
            "truncated-answers",
            ("Why so tired?", "Being tired all day can have many causes, and the first that doctors"),
        ),
        ("truncated-answers", ("Why so tired?", "Being tired all day can have many causes, and the first is sleep...")),
        ("copied-questions", ("Can I take the tablets with milk?", "Can I take the tablets with milk.")),
        ("short-answers", ("Can I swim after the injection?", "Yes, you can.")),
        ("html", ("Is it mild?", "It is a <b>mild</b> form that needs rest and nothing more than that.")),
        (
            "contradicting-answers",
            ("IS coffee bad, for the heart", "Never drink it again; it is the worst of poisons to you."),
        ),
    ],
)
def test_each_fault_is_found_with_its_row(kind: str, bad: tuple[str, str]) -> None:
    found = of_kind(table(*GOOD, bad), kind)
    assert found is not None
    assert 5 in [row for row, _ in found.examples]
    assert found.count <= 2


def test_stock_closings_are_found_by_how_answers_end() -> None:
    rows = table(*((f"Question {n} of many?", f"Answer {n} says rest for {n} days. {STOCK}") for n in range(6)), *GOOD)
    found = of_kind(rows, "stock-closings")
    assert found is not None
    assert (found.count, found.severity) == (6, "warning")
    assert "stock-closings" in found.advice


def test_near_duplicates_say_what_a_random_split_would_have_leaked() -> None:
    rows = table(*GOOD).with_columns(cluster=pl.Series([0, 0, 1, 2]))
    found = next(f for f in findings(rows, 100, 7) if f.kind == "near-duplicates")
    assert found.count == 1
    assert "leaked 7" in found.advice


def test_one_question_for_most_rows_is_a_problem_and_comes_first() -> None:
    rows = table(*(("Same?", f"Answer {n} is told here in full, with number {n * n}.") for n in range(6)), *GOOD)
    first = findings(rows, 100, 0)[0]
    assert (first.kind, first.severity, first.count) == ("one-question", "problem", 6)


def test_rows_near_the_limit_are_noted() -> None:
    found = of_kind(table(*GOOD).with_columns(answer_tokens=pl.Series([85, 20, 20, 20])), "near-the-limit")
    assert found is not None
    assert found.count == 1


def test_a_long_row_is_shown_by_both_its_ends() -> None:
    found = of_kind(table(("Why?", "x " * 300 + "and then it stops in the middle of")), "truncated-answers")
    assert found is not None
    assert len(found.examples[0][1]) < 220
    assert found.examples[0][1].endswith("in the middle of")


def test_the_recipe_can_drop_just_the_kinds_that_name_rows() -> None:
    for kind in RULES:
        assert DataSection(source="s", drop=(kind,)).drop == (kind,)  # type: ignore[arg-type]
        assert rows_of(table(*GOOD), kind).to_list() == [False] * 4


def test_texts_without_questions_give_no_question_findings() -> None:
    rows = table(*(("", f"{n} texts stand here, and they end in {n} words.") for n in range(5)))
    assert findings(rows, 100, 0) == []


def many(count: int) -> list[tuple[str, str]]:
    return [(f"Question {n} of many?", f"{n} drops a day are right, says leaf {n * 7}.") for n in range(count)]


def test_a_sentence_that_recurs_is_shown_with_the_first_row_that_has_it() -> None:
    stock = "Please call the practice when this gets worse."
    found = of_kind(table(*GOOD, *((f"Sore {n}?", f"{stock} Rest for {n} days.") for n in range(4))), "boilerplate")
    assert found is not None
    assert (found.count, found.severity, found.examples) == (4, "problem", ((5, stock),))


def test_a_stock_closing_is_found_though_it_names_another_specialist_each_time() -> None:
    who = ("neurologist", "dermatologist", "cardiologist")
    closed = [
        (
            f"Case {n}?",
            f"Rest for {n} days and drink. {'Kindly' if n % 2 else 'Then'} consult a {who[n % 3]} online -->",
        )
        for n in range(24)
    ]
    found = of_kind(table(*closed, *many(40)), "stock-closings")
    assert found is not None
    assert found.count == 24
    assert (1, "consult a neurologist online -->") in found.examples
    assert len(found.examples) == 3


def test_a_stock_opening_is_found_by_its_first_words() -> None:
    found = of_kind(table(*((q, f"Hello, and welcome here: {a}") for q, a in many(6)), *GOOD), "stock-openings")
    assert found is not None
    assert (found.count, found.examples[0]) == (6, (1, "hello, and welcome here:"))


def test_few_rows_that_hold_most_of_the_tokens_are_named() -> None:
    even = table(*many(100))
    assert of_kind(even, "skewed-lengths") is None
    found = of_kind(even.with_columns(answer_tokens=pl.Series([20] * 95 + [800] * 5)), "skewed-lengths")
    assert found is not None
    assert (found.count, [row for row, _ in found.examples]) == (5, [96, 97, 98, 99, 100])
    assert "68%" in found.advice


def test_answers_over_the_limit_are_told_from_those_near_it() -> None:
    rows = table(*GOOD).with_columns(answer_tokens=pl.Series([85, 95, 20, 20]))
    cut, near = of_kind(rows, "cut-answers"), of_kind(rows, "near-the-limit")
    assert cut is not None
    assert near is not None
    assert ([row for row, _ in cut.examples], [row for row, _ in near.examples]) == ([2], [1])


def test_what_was_dropped_for_its_length_is_counted_against_all_rows() -> None:
    found = findings(table(*GOOD), 100, 0, {"over max_length": 1, "prompt over max_length": 12, "empty answer": 9})
    assert [(f.kind, f.count, f.share) for f in found] == [
        ("prompts-over-limit", 12, 0.75),
        ("rows-over-limit", 1, 0.2),
    ]


def test_personal_data_is_counted_and_never_shown() -> None:
    rows = table(*GOOD, ("Who helps?", "Write to anna.weber@example.org and say how you feel today."))
    found = of_kind(rows, "personal-data")
    assert found is not None
    assert (found.count, found.severity) == (1, "problem")
    assert found.examples == ((5, "Who helps? → Write to [EMAIL] and say how you feel today."),)
    assert not any("anna.weber" in text for f in findings(rows, 100, 0) for _, text in f.examples)


def test_placeholders_of_personal_data_are_noted() -> None:
    found = of_kind(table(*GOOD, ("Who helps?", "Write to [EMAIL] and say how you feel today.")), "placeholders")
    assert found is not None
    assert found.count == 1


def test_html_within_code_is_no_leftover() -> None:
    assert of_kind(table(*GOOD, ("How is it bold?", "Write ```<b>bold</b>``` and look at the page.")), "html") is None


def test_the_turns_of_one_conversation_are_no_near_duplicates() -> None:
    talk = table(*GOOD).with_columns(row=pl.Series([1, 1, 2, 3]), cluster=pl.Series([0, 0, 1, 1]))
    found = of_kind(talk, "near-duplicates")
    assert found is not None
    assert (found.count, found.examples[0][0]) == (1, 3)


def test_no_rows_have_no_findings() -> None:
    assert findings(table(*GOOD).clear(), 100, 0) == []


def faulty() -> pl.DataFrame:
    rest = "it is safe to take the tablets together with a glass of milk in the morning"
    bad = [
        ("Same?", f"Yes, {rest}. For more of it write to anna@example.org or to [PHONE] now"),
        ("Same?", f"No, {rest}, and the"),
        ("Can I take the tablets with milk?", "Can I take the tablets with milk."),
        ("Why?", "No."),
        ("Is it?", "It is <b>mild</b>."),
        ("Ist es mild?", "Trinken Sie viel Wasser und ruhen Sie sich bitte aus, bis das Fieber sinkt."),
        *((f"Ache {n}?", f"Thank you for asking. Take {n} drops. {STOCK}") for n in range(120)),
    ]
    count = len(bad)
    tokens = pl.Series([95, 85] + [1] * (count - 7) + [90] * 5)
    return table(*bad).with_columns(answer_tokens=tokens, cluster=pl.Series([0] * count))


def test_advice_is_one_sentence_and_names_only_what_a_recipe_has() -> None:
    found = findings(faulty(), 100, 3, {"over max_length": 1, "prompt over max_length": 1})
    found += findings(table(*(("Same?", f"Answer {n} has {n * n} words.") for n in range(6))), 100, 0)
    assert len({f.kind for f in found}) == 18
    for finding in found:
        assert re.fullmatch(r"[A-Z].*\.", finding.advice)
        assert ". " not in finding.advice
        for section, field in re.findall(r"\b(data|model|train)\.([a-z_]+)", finding.advice):
            assert field in Recipe.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def test_findings_are_sorted_by_severity_and_hold_what_their_share_says() -> None:
    rows = faulty()
    found = findings(rows, 100, 3)
    order = ["problem", "warning", "note"]
    assert [f.severity for f in found] == sorted((f.severity for f in found), key=order.index)
    for finding in found:
        assert finding.share == finding.count / rows.height
        assert len(finding.examples) <= 5
        assert all(len(text) <= 200 for _, text in finding.examples)


@pytest.mark.parametrize("kind", RULES)
def test_dropping_what_a_finding_names_leaves_nothing_for_it_to_name(kind: str) -> None:
    rows = faulty()
    named = rows_of(rows, kind)
    found = of_kind(rows, kind)
    assert found is not None
    assert found.count == named.sum() > 0
    assert of_kind(rows.filter(~named), kind) is None


def test_special_tokens_are_shown_with_what_stands_around_them() -> None:
    rows = table(*GOOD, ("Why?", f"{'Rest. ' * 90}So <|im_end|> and [INST] it is. {'Water. ' * 90}"))
    (found,) = (
        f for f in findings(rows, 100, 0, special=("<|im_end|>", "[INST]", "</s>")) if f.kind == "special-tokens"
    )
    assert (found.count, found.severity) == (1, "warning")
    ((row, text),) = found.examples
    assert row == 5
    assert "So <|im_end|> and" in text
    assert len(text) < 200
    assert "(<|im_end|>)" in found.advice


def test_texts_without_special_tokens_and_tokenizers_without_any_give_no_finding() -> None:
    assert findings(table(*GOOD), 100, 0, special=("<|im_end|>", ".*")) == []
    assert findings(table(*GOOD), 100, 0, special=()) == []


def test_rows_that_were_redacted_are_not_looked_through_again() -> None:
    rows = table(*GOOD, ("Who helps?", "Write to anna.weber@example.org and say how you feel today."))
    assert [f.kind for f in findings(rows, 100, 0, redacted=True)] == []


def test_personal_data_is_told_by_kind() -> None:
    rows = table(*GOOD, ("Who helps?", "Ring 020 7946 0182 and say that you were born on 3 May 1961, please."))
    found = of_kind(rows, "personal-data")
    assert found is not None
    assert found.advice == "Personal data is learnt (1 phone, 1 birth date): set data.redact: true."


@pytest.mark.parametrize("mark", ["[EMAIL]", "[PHONE_2]", "[NATIONAL_ID_1]", "[NAME]"])
def test_placeholders_of_every_kind_are_noted(mark: str) -> None:
    assert of_kind(table(*GOOD, ("Who helps?", f"Ask {mark} and say how you feel today.")), "placeholders") is not None
