from __future__ import annotations

from typing import get_args

import yaml

from residency.commented import commented
from residency.recipe import Recipe, Section, SynthesiseSection

VALUES = {"name": "mine", "data": {"source": "x: y.csv", "question": "#q", "answer": "a"}, "model": {"max_length": 512}}


def test_what_is_set_loads_and_all_else_is_the_default() -> None:
    recipe = Recipe.parse(yaml.safe_load(commented(VALUES)))
    assert recipe == Recipe.parse(VALUES)


def test_every_field_stands_in_it_with_its_description() -> None:
    text = commented(VALUES)

    def check(section: type[Section]) -> None:
        for name, field in section.model_fields.items():
            kinds = (field.annotation, *get_args(field.annotation))
            inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
            if inner:
                check(inner[0])
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


def test_a_section_that_is_off_is_shown_with_its_fields_and_uncommented_as_a_whole_is_on() -> None:
    lines = commented({"name": "mine", "data": {"source": "notes.md"}}).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("  # synthesise:"))
    assert "by: [rules]" in lines[start + 1]
    for place in range(start, start + 1 + len(SynthesiseSection.model_fields)):
        lines[place] = lines[place].replace("# ", "", 1)
    recipe = Recipe.parse(yaml.safe_load("\n".join(lines)))
    assert recipe.data.synthesise == SynthesiseSection()


def test_a_section_that_is_on_keeps_what_is_set() -> None:
    values = {"name": "mine", "data": {"source": "notes.md", "synthesise": {"pairs": 5}}}
    assert Recipe.parse(yaml.safe_load(commented(values))) == Recipe.parse(values)
