from __future__ import annotations

import yaml

from residency.commented import commented
from residency.recipe import Recipe, Section

VALUES = {"name": "mine", "data": {"source": "x: y.csv", "question": "#q", "answer": "a"}, "model": {"max_length": 512}}


def test_what_is_set_loads_and_all_else_is_the_default() -> None:
    recipe = Recipe.parse(yaml.safe_load(commented(VALUES)))
    assert recipe == Recipe.parse(VALUES)


def test_every_field_stands_in_it_with_its_description() -> None:
    text = commented(VALUES)

    def check(section: type[Section]) -> None:
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                check(field.annotation)
            else:
                assert f"{name}: " in text
            assert (field.description or "") in text

    check(Recipe)


def test_uncommenting_a_line_sets_its_default() -> None:
    text = commented(VALUES)
    line = next(line for line in text.splitlines() if line.startswith("  # seed: 123"))
    again = text.replace(line, line.replace("# ", "", 1))
    assert Recipe.parse(yaml.safe_load(again)) == Recipe.parse(VALUES)


def test_choices_and_bounds_are_said() -> None:
    text = commented(VALUES)
    assert "drop | truncate" in text
    assert "over 0, at most 1" in text
