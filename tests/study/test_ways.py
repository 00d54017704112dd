from __future__ import annotations

import pytest

from residency.errors import UserError
from residency.recipe import Recipe
from residency.study import ways


def recipe(**sections: object) -> Recipe:
    return Recipe.parse({"name": "x", "data": {"source": "clinic"}, **sections})


def test_all_ways_are_gone_when_none_is_named_and_the_base_is_always_among_them() -> None:
    assert [way.name for way in ways.chosen(None)] == list(ways.WAYS)
    assert [way.name for way in ways.chosen("lora, bm25")] == ["base", "bm25", "lora"]


def test_a_misspelt_way_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r'no way "few-shots".*did you mean "few-shot"'):
        ways.chosen("base,few-shots")


def test_a_way_whose_extra_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "find_spec", lambda name: None)
    monkeypatch.setattr(ways.embeddings, "available", lambda: False)
    assert {name for name, way in ways.WAYS.items() if not ways.missing(way)} == {"base", "instruction", "lora", "full"}
    assert "residency[retrieve]" in ways.missing(ways.WAYS["bm25"])
    assert "residency[embeddings]" in ways.missing(ways.WAYS["embeddings"])


@pytest.mark.parametrize(
    ("train", "study", "lora", "full"),
    [
        ({"method": "lora", "learning_rate": 2e-3}, {}, 2e-3, 2e-4),
        ({"method": "full", "learning_rate": 1e-5}, {}, 1e-4, 1e-5),
        ({"method": "ia3", "learning_rate": 2e-2}, {}, 2e-3, 2e-4),
        ({"method": "lora"}, {"lora_learning_rate": 0.5, "full_learning_rate": 0.25}, 0.5, 0.25),
    ],
)
def test_each_training_has_a_rate_that_suits_its_method(
    train: dict[str, object], study: dict[str, object], lora: float, full: float
) -> None:
    asked = recipe(train=train, study=study)
    for name, rate in (("lora", lora), ("full", full)):
        made = ways.tuned(asked, name)
        assert made.train.method == name
        assert made.train.learning_rate == pytest.approx(rate)
        assert made.data == asked.data
