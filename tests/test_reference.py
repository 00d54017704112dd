"""The reference pages of the site: made from the program, so that every field and every command stands there."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import typer.main

from residency.cli import app
from residency.recipe import Recipe
from residency.sections import Section

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    found = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def fields(section: type[Section] = Recipe, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and description of every field, straight from the classes."""
    for name, field in section.model_fields.items():
        where = f"{path}{name}"
        kinds = (field.annotation, *get_args(field.annotation))
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        if inner:
            yield from fields(inner, f"{where}.")
        else:
            yield where, field.description or ""


def row(page: str, path: str) -> str:
    """The line of a field's table row."""
    return next((line for line in page.split("\n") if f"{{ #{path} }} |" in line), "")


def test_every_field_stands_on_the_page_with_what_it_is(generate: ModuleType) -> None:
    page = generate.recipe_page()
    every = list(fields())
    assert len(every) > 80
    for path, description in every:
        assert description, f"{path} has no description"
        assert description.split("|")[0].strip() in row(page, path), path
    assert len(re.findall(r"^\| `\w+`\{ #", page, re.M)) == len(every), "a field stands there twice, or one of nothing"


def test_a_field_is_shown_with_its_kind_its_range_and_its_default(generate: ModuleType) -> None:
    page = generate.recipe_page()
    assert "| whole number; at least 16 | `2048` |" in row(page, "model.max_length")
    assert "number; at least 0, under 1 | `0.1` |" in row(page, "data.test")
    assert "**needed**" in row(page, "data.source")
    assert "left out" in row(page, "train.max_steps")
    assert all(f"`{choice}`" in row(page, "train.optimizer") for choice in ("adamw", "adafactor", "adamw-8bit", "muon"))
    assert "`true`, `false` or number; at least 0, under 1" in row(page, "data.redirects")
    assert "see below" in row(page, "data.closings")
    assert "off when left out." in page[page.index("## data.synthesise") : page.index("## model")]


def test_every_section_has_a_heading_that_other_pages_can_link_to(generate: ModuleType) -> None:
    page = generate.recipe_page()
    for path, _ in fields():
        section = path.rpartition(".")[0] or "recipe"
        assert f"{{ #{section} }}" in page


def test_a_kind_of_field_that_the_page_can_not_tell_is_an_error(generate: ModuleType) -> None:
    with pytest.raises(ValueError, match="multipleOf"):
        generate._kind({"type": "integer", "multipleOf": 8})


def test_every_command_stands_on_the_page_with_all_of_its_options(generate: ModuleType) -> None:
    page = generate.commands_page()
    group = typer.main.get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    assert {"run", "init", "prepare", "train", "evaluate", "faults", "chat", "export"} <= set(commands)
    for name, command in commands.items():
        section = page[page.index(f"## {name} {{") :].split("\n## ")[0]
        assert command.help.strip().split("\n")[0] in section
        assert f"residency {name}" in section
        for one in command.params:
            for option in one.opts if one.param_type_name == "option" else [one.metavar or one.name.upper()]:
                assert f"`{option}`" in section, (name, option)


def test_an_option_is_shown_with_its_default_and_its_range(generate: ModuleType) -> None:
    by_name = {command.name: command for command in generate.commands()}
    rank = {option.names: option for option in by_name["rank"].options}
    assert rank["--resamples"].default == "`1000`"
    assert rank["--resamples"].value == "whole number, at least 100"
    assert rank["--own-temperature"].default == "off"
    init = {option.names: option for option in by_name["init"].options}
    assert init["--data"].default == init["NAME"].default == "**needed**"
    assert "several times" in next(o.value for o in by_name["run"].options if "--set" in o.names)
