"""The reference pages, made from the code: every field of a recipe, every command. Nothing of them is written by hand.

    python docs/generate.py recipe
    python docs/generate.py commands

prints a page as Markdown; the site's build takes the same functions (docs/hooks.py), so that no page can be stale.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most", "exclusiveMaximum": "under"}
COUNTS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} in the list",
}
READ = {"type", "enum", "const", "items", "anyOf", "allOf", "$ref", "pattern", *BOUNDS, *COUNTS}
TOLD = {"title", "description", "default", "format", "maxItems", "prefixItems"}  # shown elsewhere, or without a range
RECIPE_HEAD = """\
# Every field of a recipe

A recipe is one YAML file. A field that is left out has its default; a misspelt one is an error that names the nearest.
Any field can be set from the command line: `--set train.epochs=1`. `residency init` writes a recipe with all of them as
comments, and `residency schema` prints this as JSON Schema, for editors that complete and check.

This page is made from the program at each build of the site.
"""
COMMANDS_HEAD = """\
# Every command

`--json` prints one JSON object on stdout and keeps progress on stderr. Exit codes: 0 done, 2 your input is wrong (one
line says what was found and where, what is expected, what to do), 3 interrupted and resumable, 1 a fault of ours
(`--debug` shows where). `residency COMMAND --help` says in the terminal what stands here,
`residency --version` the version.

This page is made from the program at each build of the site.
"""
NEEDED, LEFT_OUT = "**needed**", "left out"
VALUES = {str: "text", Path: "path", int: "whole number", float: "number"}  # of an option
WIDE = 60  # characters of a default that a table has room for


class Field(NamedTuple):
    """A setting of a recipe: where it stands, what it may be, and what it is for."""

    path: str
    kind: str
    limits: str
    default: str
    about: str


class Part(NamedTuple):
    """A section of a recipe with its own settings; the sections within it come after it."""

    path: str
    about: str
    fields: list[Field]


class Option(NamedTuple):
    """An argument of a command, which is known by its place, or an option."""

    names: str
    value: str
    default: str
    about: str
    place: bool = False


class Command(NamedTuple):
    """A command: how it is called, what it does, what it takes."""

    name: str
    usage: str
    about: str
    options: list[Option]


# The recipe


def parts() -> list[Part]:
    """Every section of a recipe, the recipe itself first, from the schema that `residency schema` prints."""
    from residency.recipe import Recipe

    schema = Recipe.model_json_schema()
    return list(_parts(schema, schema["$defs"], "", schema.get("description", "")))


def _parts(section: dict[str, Any], known: dict[str, Any], path: str, about: str) -> Iterator[Part]:
    fields, within = [], []
    for name, field in section["properties"].items():
        where = f"{path}.{name}" if path else name
        target = _section(field, known)
        if target:
            text = " ".join(filter(None, [known[target].get("description", ""), _sentence(field.get("description"))]))
            within.append((known[target], where, text))
        else:
            fields.append(_field(where, field, name in section.get("required", ())))
    yield Part(path, about, fields)
    for inner, where, text in within:
        yield from _parts(inner, known, where, text)


def _section(field: dict[str, Any], known: dict[str, Any]) -> str:
    """The name of the section that a field holds; empty where it holds a value."""
    for kind in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        name = str(kind.get("$ref", "")).rpartition("/")[2]
        if name and "properties" in known[name]:
            return name
    return ""


def _field(path: str, field: dict[str, Any], needed: bool) -> Field:
    default = NEEDED if needed else LEFT_OUT if field.get("default") is None else _flow(field["default"])
    return Field(path, _kind(field), _limits(field), default, field.get("description", ""))


def _kind(schema: dict[str, Any]) -> str:
    """What a value may be, in words.

    Raises:
        ValueError: the schema says something that this page would leave out.
    """
    strange = set(schema) - READ - TOLD
    if strange:
        raise ValueError(f"docs/generate.py does not know {sorted(strange)} in {schema}")
    if "anyOf" in schema:
        return " or ".join(_kind(kind) for kind in schema["anyOf"] if kind.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        inner = schema["items"]
        return f"list of {_kind(inner)}" if "enum" in inner or "const" in inner else f"list of {_kind(inner)}s"
    return KINDS[schema["type"]]


def _limits(schema: dict[str, Any]) -> str:
    """The range of a value, in words; empty where any will do."""
    told = [f"{word} {schema[bound]:g}" for bound, word in BOUNDS.items() if bound in schema]
    told += [words.format(schema[bound]) for bound, words in COUNTS.items() if bound in schema]
    told += [f"like `{schema['pattern']}`"] if "pattern" in schema else []
    told += [inner for kind in schema.get("anyOf", ()) if (inner := _limits(kind))]
    return ", ".join(told)


def _flow(value: Any) -> str:
    """A default as it would stand in a recipe."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n...\n").strip()


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def recipe_page() -> str:
    """The page of every field."""
    lines = [RECIPE_HEAD]
    for part in parts():
        lines += _part_lines(part)
    return "\n".join(lines)


def _part_lines(part: Part) -> Iterator[str]:
    yield f"## {part.path or 'The recipe itself'} {{ #{part.path or 'recipe'} }}"
    yield ""
    yield part.about
    yield ""
    if not part.fields:
        return
    yield "| field | may be | default | what it is |"
    yield "| --- | --- | --- | --- |"
    wide = []
    for field in part.fields:
        plain = field.default in (NEEDED, LEFT_OUT)
        default = field.default if plain else f"`{field.default}`"
        if len(default) > WIDE:
            default = "see below"
            wide.append(field)
        own = field.path.rpartition(".")[2]
        kind = "; ".join(filter(None, [field.kind, field.limits]))
        yield f"| `{own}`{{ #{field.path} }} | {_cell(kind)} | {_cell(default)} | {_cell(field.about)} |"
    for field in wide:
        yield ""
        yield f"The default of `{field.path}`:"
        yield ""
        yield "```yaml"
        yield _blocks(field)
        yield "```"
    yield ""


def _blocks(field: Field) -> str:
    import yaml

    name = field.path.rpartition(".")[2]
    return yaml.safe_dump({name: yaml.safe_load(field.default)}, width=10_000, allow_unicode=True).strip()


# The commands


def commands() -> list[Command]:
    """Every command of the program with all of its options, as the functions declare them to Typer."""
    from residency.cli import app

    return [_command(one) for one in app.registered_commands if not one.hidden]


def _command(registered: Any) -> Command:
    function = registered.callback
    hints = get_type_hints(function, include_extras=True)
    given = inspect.signature(function).parameters
    options = [_option(name, hints[name], one.default) for name, one in given.items()]
    name = registered.name or function.__name__.replace("_", "-")
    places = [one.names if one.default == NEEDED else f"[{one.names}]" for one in options if one.place]
    usage = " ".join(["residency", name, *places, "[OPTIONS]"])
    return Command(name, usage, inspect.getdoc(function) or "", options)


def _option(name: str, hint: Any, default: Any) -> Option:
    kind, info = get_args(hint)[:2]
    place = type(info).__name__ == "ArgumentInfo"
    names = (info.metavar or name.upper()) if place else ", ".join(_declared(name, info))
    kinds = [one for one in (get_args(kind) or (kind,)) if one is not type(None)]
    several = any(get_origin(one) is list for one in (kind, *kinds))
    inner = [*get_args(kinds[0]), kinds[0]][0]
    flag = inner is bool
    value = "" if flag else ", ".join([VALUES[inner], *_bounds(info), *(["several times"] if several else [])])
    shown = NEEDED if default is inspect.Parameter.empty else "off" if flag and not default else _default(default)
    return Option(names, value, shown, info.help or "", place)


def _declared(name: str, info: Any) -> list[str]:
    """How an option is written; in an annotation, Typer takes the first of its names for a default."""
    found = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
    return found or [f"--{name.replace('_', '-')}"]


def _bounds(info: Any) -> list[str]:
    return [f"{word} {end:g}" for word, end in (("at least", info.min), ("at most", info.max)) if end is not None]


def _default(value: Any) -> str:
    if value is None:
        return LEFT_OUT
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def commands_page() -> str:
    """The page of every command."""
    lines = [COMMANDS_HEAD]
    for command in commands():
        lines += [f"## {command.name} {{ #{command.name} }}", "", command.about, "", f"    {command.usage}", ""]
        lines += ["| | takes | default | |", "| --- | --- | --- | --- |"]
        for one in command.options:
            mark = one.names.rpartition("--")[2].rstrip(".").lower()
            names = ", ".join(f"`{name}`" for name in one.names.split(", "))
            cells = [f"{names}{{ #{command.name}.{mark} }}", *map(_cell, (one.value, one.default, one.about))]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text for a cell of a table: on one line, and a bar outside of code is no border."""
    text = " ".join(text.split())
    return "`".join(part if place % 2 else part.replace("|", "\\|") for place, part in enumerate(text.split("`")))


PAGES: dict[str, Callable[[], str]] = {"recipe": recipe_page, "commands": commands_page}


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in PAGES:
        sys.stdout.write(PAGES[sys.argv[1]]() + "\n")
    else:
        sys.exit(f"usage: python docs/generate.py {'|'.join(PAGES)}")
