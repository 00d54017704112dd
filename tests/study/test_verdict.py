from __future__ import annotations

from typing import Any

import pytest

from residency.study.verdict import duration, verdict
from residency.study.ways import WAYS

# A way's NLL and ROUGE-L, half-widths of every paired difference, and seconds to build and an answer.
Given = tuple[float, float, float, float]
NLL_HALF, ROUGE_HALF = 0.1, 1.5


def study(given: dict[str, Given], loops: dict[str, float] | None = None, **memory: float) -> dict[str, Any]:
    """Synthetic results: NLL, ROUGE-L, seconds to build, seconds an answer; every difference with the same interval."""
    share = {name: (loops or {}).get(name, 0.0) for name in given}

    def around(mean: float, half: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - half, "high": mean + half}

    return {
        name: {
            "label": WAYS[name].label,
            "trains": WAYS[name].trains,
            "build": {"seconds": build, "peak_bytes": memory.get(name.replace("-", "_"), 1.0) * 2**30},
            "answer": {"alone_seconds": seconds, "batch_seconds": seconds / 4, "prompt_tokens": 60, "new_tokens": 80},
            "quality": {"answer_nll": around(nll, 0.2), "rouge_l": around(rouge, 2)},
            "less": {
                other: {
                    "answer_nll": around(nll - given[other][0], NLL_HALF),
                    "rouge_l": around(rouge - given[other][1], ROUGE_HALF),
                    "repetition": around(share[name] - share[other], 0.02),
                }
                for other in given
                if other != name
            },
        }
        for name, (nll, rouge, build, seconds) in given.items()
    }


def said(ways: dict[str, Any], questions: int = 50) -> tuple[str, bool | None, str]:
    found = verdict(ways, questions)
    return found.use, found.worth_it, " ".join([found.headline, *found.because, *found.would_change])


def test_a_clear_win_of_full_fine_tuning_is_worth_it_and_says_by_how_much_and_at_what_cost() -> None:
    ways = study(
        {"base": (2.4, 14, 0, 3), "bm25": (2.2, 14, 0.1, 4), "lora": (1.9, 15, 300, 2), "full": (1.6, 17, 600, 2)}
    )
    use, worth, text = said(ways)
    assert (use, worth) == ("full", True)
    assert "Fine-tuning is worth it here: use full fine-tuning." in text
    assert "by 0.80 nats a token (95% interval 0.70 to 0.90)" in text
    assert "It takes 10 min" in text
    assert "60 tokens of prompt and 80 new ones" in text


def test_of_a_tie_between_lora_and_retrieval_the_cheaper_one_is_used_and_the_break_even_is_said() -> None:
    ways = study({"base": (2.4, 14, 0, 3), "bm25": (1.92, 15, 0, 2.5), "lora": (1.9, 15, 3000, 2)})
    use, worth, text = said(ways)
    assert (use, worth) == ("bm25", False)  # 2,500 s for 1,000 answers against 5,000 s
    assert "Fine-tuning is not worth it here: use retrieval by BM25, which needs no training." in text
    assert "LoRA is as good as far as these questions show" in text
    assert "For more than about 6,000 answers LoRA is the cheaper one." in text  # 3,000 s at half a second each
    slower = study({"base": (2.4, 14, 0, 3), "bm25": (1.92, 15, 0, 6), "lora": (1.9, 15, 3000, 2)})
    use, worth, text = said(slower)
    assert (use, worth) == ("lora", True)
    assert "For fewer than about 750 answers retrieval by BM25 is the cheaper one." in text


def test_where_nothing_beats_the_base_it_says_not_to_fine_tune_and_how_many_questions_would_tell() -> None:
    ways = study({"base": (2.4, 14, 0, 3), "instruction": (2.45, 14, 0, 3), "lora": (2.35, 14, 300, 2)})
    use, worth, text = said(ways)
    assert (use, worth) == ("base", False)
    assert "Don't fine-tune here" in text
    assert "LoRA came nearest (NLL -0.05, 95% interval -0.15 to +0.05)" in text
    assert "about 200 questions instead of 50" in text  # an interval twice as wide as the gain takes four times as many


def test_where_all_others_are_worse_more_questions_are_not_promised_to_help() -> None:
    use, _, text = said(study({"base": (2.4, 14, 0, 3), "lora": (2.9, 14, 300, 2)}))
    assert use == "base"
    assert "more or better rows, or a larger base model" in text


def test_a_gain_in_likelihood_that_costs_words_or_brings_loops_is_none() -> None:
    use, _, text = said(study({"base": (2.4, 14, 0, 3), "lora": (1.9, 10, 300, 2)}))
    assert use == "base"
    assert "its ROUGE-L falls by -4.0" in text
    use, _, text = said(study({"base": (2.4, 14, 0, 3), "lora": (1.9, 14, 300, 2)}, loops={"lora": 0.5}))
    assert use == "base"
    assert "loops come 50 percentage points" in text


def test_rows_that_change_often_and_answers_in_a_hurry_and_little_memory_would_change_the_answer() -> None:
    ways = study(
        {
            "base": (2.4, 14, 0, 3),
            "bm25": (2.2, 14, 0.1, 4),
            "lora": (1.9, 15, 300, 1),
            "tuned-bm25": (1.6, 17, 301, 2),
        },
        tuned_bm25=7.0,
        lora=4.0,
    )
    use, _, text = said(ways)
    assert use == "tuned-bm25"
    assert (
        "If the rows change often, training again takes 5.0 min each time; retrieval by BM25 takes new ones up in"
        in text
    )
    assert "NLL +0.60, 95% interval +0.50 to +0.70" in text
    assert "If an answer must come within 2 s, LoRA gives one in 1 s" in text
    assert "With less than 7.0 GiB of memory to build with, LoRA takes 4.0 GiB" in text


def test_where_nothing_better_is_faster_the_base_is_named_for_those_in_a_hurry() -> None:
    _, _, text = said(study({"base": (2.4, 14, 0, 1), "bm25": (2.0, 14, 0.1, 4)}))
    assert "If an answer must come within 4 s, the base model gives one in 1 s (NLL +0.40" in text


def test_words_that_prefer_another_way_are_said() -> None:
    _, _, text = said(study({"base": (2.4, 14, 0, 3), "bm25": (2.0, 20, 0.1, 4), "lora": (1.6, 16, 300, 2)}))
    assert "By the answers' own words it would be retrieval by BM25: ROUGE-L +4.0" in text


def test_without_a_trained_way_nothing_is_said_for_or_against_fine_tuning() -> None:
    assert said(study({"base": (2.4, 14, 0, 3), "bm25": (2.0, 14, 0.1, 4)}))[1] is None
    assert said(study({"base": (2.4, 14, 0, 3), "bm25": (2.4, 14, 0.1, 4)}))[1] is None
    assert said(study({"base": (2.4, 14, 0, 3)}))[0] == "base"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "no time"),
        (0.04, "0.04 s"),
        (2.04, "2 s"),
        (45.4, "45 s"),
        (150, "2.5 min"),
        (3000, "50 min"),
        (9000, "2.5 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
