from __future__ import annotations

import polars as pl

from residency.data.findings import findings
from residency.languages import LOOKED_AT, other_languages, spread

ENGLISH = [
    f"Rest for {n} days, drink enough water, and see a doctor if the fever comes back at night." for n in range(12)
]


def table(answers: list[str]) -> pl.DataFrame:
    count = len(answers)
    return pl.DataFrame(
        {
            "row": range(1, count + 1),
            "question": [f"What about case {n}?" for n in range(count)],
            "answer": answers,
            "prompt_tokens": [9] * count,
            "answer_tokens": [20] * count,
            "cluster": range(count),
        }
    )


def test_answers_in_another_language_than_most_are_named() -> None:
    others = [
        "Trinken Sie viel Wasser und gehen Sie zum Arzt, wenn das Fieber wiederkommt.",
        "Beba mucha agua y consulte a un médico si la fiebre vuelve por la noche.",
        "Пейте больше воды и обратитесь к врачу, если температура вернётся.",
    ]
    assert other_languages(table(ENGLISH + others)).to_list() == [False] * 12 + [True] * 3


def test_latin_names_and_short_answers_are_no_other_language() -> None:
    assert not other_languages(table([*ENGLISH, "Patent ductus arteriosus.", "Sí.", "Amoxicillin 500 mg"])).any()


def test_the_main_language_need_not_be_english() -> None:
    german = [f"Ruhen Sie {n} Tage, trinken Sie genug und gehen Sie bei Fieber zum Arzt." for n in range(8)]
    assert other_languages(table([*german, ENGLISH[0]])).to_list() == [False] * 8 + [True]


def test_a_large_table_is_looked_at_in_rows_at_even_distances() -> None:
    rows = table(ENGLISH * 200)
    some = spread(rows)
    assert some.height == LOOKED_AT
    assert (some["row"][0], some["row"][-1]) == (1, rows.height)
    mixed = rows.with_columns(
        answer=pl.when(pl.col("row") % 7 == 0)
        .then(pl.lit("Trinken Sie viel Wasser und ruhen Sie sich aus."))
        .otherwise("answer")
    )
    found = next(f for f in findings(mixed, 100, 0) if f.kind == "other-languages")
    assert found.advice.startswith("Of 2,000 rows looked at")
    assert 0.11 < found.share < 0.17
