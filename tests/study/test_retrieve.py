from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from residency import embeddings, pipeline
from residency.errors import UserError
from residency.recipe import Recipe
from residency.study import retrieve
from residency.workspace import Dialogue, Run

pytest.importorskip("bm25s", reason="needs residency[retrieve]")

SOURCES = [
    Dialogue(1, "What helps against fever?", "Rest, and water."),
    Dialogue(2, "What helps against a cough?", "Warm tea and honey."),
    Dialogue(3, "How is a burn treated?", "Cool it with water."),
]


def test_words_in_common_bring_the_nearest_dialogue_first_and_none_brings_nothing() -> None:
    finder = retrieve.build("bm25", SOURCES)
    assert finder.nearest(["my child has a cough", "how to treat a burn?", "Mars", "?"], 2)[0][0] == 1
    assert finder.nearest(["a burn"], 3) == [[2]]
    assert finder.nearest(["Mars", "?"], 3) == [[], []]
    assert finder.nearest([], 3) == []


def test_of_equals_the_earlier_source_is_nearer_however_often_it_is_asked() -> None:
    same = [Dialogue(row, "What helps against fever?", "Rest.") for row in range(1, 9)]
    finder = retrieve.build("bm25", same)
    assert finder.nearest(["fever"] * 3, 3) == [[0, 1, 2]] * 3


def test_an_index_says_what_it_took_to_build() -> None:
    finder = retrieve.build("bm25", SOURCES)
    assert finder.seconds > 0
    assert finder.peak_bytes > 2**20


def test_the_hybrid_prefers_what_both_rankings_have_near(monkeypatch: pytest.MonkeyPatch) -> None:
    # Vectors by hand: the third source is the nearest in meaning, the second by words, the first in neither.
    texts = [f"{source.question}\n{source.answer}" for source in SOURCES]
    vectors = dict(zip(texts, ([0, 1], [0.8, 0.6], [1, 0]), strict=True))
    monkeypatch.setattr(embeddings, "embed", lambda asked: np.array([vectors.get(text, [1.0, 0.0]) for text in asked]))
    by_meaning = retrieve.build("embeddings", SOURCES).nearest(["a cough"], 3)
    assert by_meaning == [[2, 1]]  # a source at a right angle is not near at all
    assert retrieve.build("hybrid", SOURCES).nearest(["a cough"], 3)[0] == [1, 2, 0]


@pytest.mark.skipif(not embeddings.available(), reason="needs residency[embeddings]")
def test_meaning_is_found_without_a_word_in_common() -> None:
    assert retrieve.build("embeddings", SOURCES).nearest(["high body temperature"], 1) == [[0]]


@pytest.fixture
def run(small_recipe: dict[str, Any], tmp_path: Path) -> Run:
    pipeline.prepare(Recipe.parse(small_recipe), tmp_path)
    return Run.open(tmp_path)


def test_sources_are_the_training_dialogues_and_nothing_that_is_held_out(run: Run) -> None:
    sources = {dialogue.row for dialogue in retrieve.sources_of(run)}
    held_out = {dialogue.row for split in ("test", "validation") for dialogue in run.dialogues(split)}
    assert sources == {dialogue.row for dialogue in run.dialogues("train")}
    assert held_out and not sources & held_out


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_held_out_dialogue_among_the_sources_is_refused(run: Run, split: str) -> None:
    train, held_out = (run.folder / "data" / f"{name}.jsonl" for name in ("train", split))
    train.write_text(train.read_text("utf-8") + held_out.read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    with pytest.raises(UserError, match=f"stands in the {split} data too"):
        retrieve.sources_of(run)
