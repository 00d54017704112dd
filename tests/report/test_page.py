from __future__ import annotations

import html.parser
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import dialogues, write_jsonl
from residency import pipeline
from residency.data import privacy
from residency.recipe import Recipe
from residency.report.page import score_rows, verdicts
from residency.report.template import PERSONAL

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quoted"'


def evaluation(nll: tuple[float, float, float] = (-0.5, -0.6, -0.4)) -> dict[str, Any]:
    keys = (
        "rouge_l",
        "bleu",
        "chrf",
        "stopped",
        "repetition",
        "repeated",
        "boilerplate",
        "empty",
        "length",
        "answer_nll",
        "distinct_1",
        "copied_words",
    )
    zero = {"mean": 0.0, "low": 0.0, "high": 0.0}
    mean, low, high = nll
    return {
        "questions": 2,
        "decoding": {"name": "greedy, repetition penalty 1.1", "repetition_penalty": 1.1},
        "candidates": [
            {
                "name": HOSTILE,
                "settings": {},
                "stopped": 1.0,
                "repetition": 0.0,
                "repeated": 0.0,
                "chrf": 20.0,
                "chosen": True,
            }
        ],
        "systems": {name: dict.fromkeys(keys, 0.5) | {"tokens_per_second": 10.0} for name in ("base", "tuned")},
        "differences": dict.fromkeys(keys, zero) | {"answer_nll": {"mean": mean, "low": low, "high": high}},
        "significance": {"answer_nll": {"p": 0.001, "holm": 0.01, "stands": True}},
        "signatures": {"bleu": HOSTILE},
        "greedy": {name: dict.fromkeys(keys, 0.5) for name in ("base", "tuned")},
        "faults": {"base": {}, "tuned": {}},
        "off_topic": [{"question": "Mars?", "base": HOSTILE, "tuned": HOSTILE}],
    }


@pytest.fixture
def page(small_recipe: dict[str, Any], tmp_path: Path) -> str:
    """A report whose data, answers and findings all try to break out of the page."""
    rows = [
        {"Description": f"{HOSTILE} case {n} of {word}?", "Doctor": f"{HOSTILE} answer {n} about {word} ends here."}
        for n, word in enumerate("abcdefghijklmnopqrst")
    ]
    source = tmp_path / "hostile.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    small_recipe["data"]["source"] = str(source)
    folder = tmp_path / "run"
    pipeline.prepare(Recipe.parse(small_recipe), folder)
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "scores.json").write_text(json.dumps(evaluation()))
    answer = {"text": HOSTILE, "tokens": 5, "stopped": True, "loop": False, "answer_nll": 1.0}
    row = {"row": 1, "question": HOSTILE, "reference": HOSTILE}
    row |= dict.fromkeys(("base", "base_greedy", "tuned", "tuned_greedy"), answer)
    (folder / "evaluation" / "answers.jsonl").write_text(json.dumps(row) + "\n")
    return pipeline.report(folder).read_text()


class Reader(html.parser.HTMLParser):
    """Collects tags, addresses and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_what_a_model_or_a_row_says_is_never_markup(page: str) -> None:
    reader = Reader(page)
    assert not {"script", "img"} & set(reader.tags)
    assert any('<script>alert("x")</script>' in text for text in reader.texts)


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    reader = Reader(page)
    assert not {"link", "iframe"} & set(reader.tags)
    assert [address for address in reader.addresses if not address.startswith("#")] == []
    assert "url(http" not in page
    assert "@import" not in page


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((-0.5, -0.6, -0.4), "better"), ((0.5, 0.4, 0.6), "worse"), ((-0.1, -0.3, 0.1), "no difference shown")],
)
def test_a_difference_is_only_shown_where_zero_lies_outside(interval: tuple[float, float, float], verdict: str) -> None:
    found = evaluation(interval)
    assert score_rows(found)[0]["verdict"] == verdict
    assert {"better": "good", "worse": "bad"}.get(verdict, "open") == verdicts(found)[0][0]


def test_a_share_is_written_in_per_cent_and_its_difference_in_points() -> None:
    row = next(row for row in score_rows(evaluation()) if row["metric"].key == "stopped")
    assert row["base"] == "50%"
    assert row["difference"] == "0 pp"
    metric = row["metric"]
    assert [metric.write(value, signed=True) for value in (0.126, -0.004, 0.004)] == ["+13 pp", "0 pp", "0 pp"]


def test_the_rest_of_the_scores_unfolds_and_a_difference_says_whether_it_stands(page: str) -> None:
    texts = [" ".join(text.split()) for text in Reader(page).texts]
    assert texts.count("stands among all") == 1
    assert "More on form: Repeats itself, Empty, Distinct-1" in texts
    assert "More on copying: Boilerplate, Copied words" in texts
    assert "How BLEU, chrF and others were computed" in texts


def test_personal_data_is_counted_in_words_and_shown_nowhere(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    rows = dialogues(20)
    rows[0]["Doctor"] += " Write to jane@x.example; she was born on 3 May 1961."
    small_recipe["data"]["source"] = str(write_jsonl(tmp_path / "a.jsonl", rows))
    pipeline.prepare(Recipe.parse(small_recipe), tmp_path / "run")
    page = pipeline.report(tmp_path / "run").read_text()
    assert "Replaced by placeholders: e-mail addresses" in page
    assert "Replaced by placeholders: dates of birth" in page
    assert "birth_date" not in page
    assert "jane@" not in page
    assert "3 May 1961" not in page


def test_each_kind_of_personal_data_has_words_of_its_own() -> None:
    assert set(PERSONAL) == set(privacy.KINDS)


def test_a_training_that_was_stopped_says_so_and_a_spike_lists_its_rows(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = Recipe.parse(small_recipe)
    pipeline.prepare(recipe, tmp_path)
    pipeline.train(recipe, tmp_path)
    report = json.loads((tmp_path / "train.json").read_text())
    report |= {"stopped_by": "divergence", "stopped_at": 9, "restored_step": 4}
    report["diagnosis"] = [{"kind": "loss-spike", "step": 5, "advice": "Look.", "rows": [3, 17]}]
    (tmp_path / "train.json").write_text(json.dumps(report))
    text = " ".join(" ".join(Reader(pipeline.report(tmp_path).read_text()).texts).split())
    assert "Stopped at step 9 by divergence; the model is that of step 4" in text
    assert "loss-spike , step 5: Look. Rows of this step: 3, 17." in text
