"""A recipe as a file for people: every field with its default, its range and what it is for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from residency.recipe import Recipe, Section

BOUNDS = {"ge": "at least", "gt": "over", "le": "at most", "lt": "under"}


def commented(values: dict[str, Any]) -> str:
    """YAML with `values` set, and every other field as a comment with its default."""
    lines = ["# A recipe for Residency: `residency run` with this file. What is commented out shows the default."]
    lines += _section(Recipe, values, "")
    return "\n".join(lines) + "\n"


def _section(section: type[Section], values: dict[str, Any], indent: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = _inner(field)
        if inner:
            own = values.get(name) or {}
            yield f"{indent}{'' if own else '# '}{name}:{_note(field)}"
            below = list(_section(inner, own, indent + "  "))
            yield from below if own else [f"# {line}" if not line.lstrip().startswith("#") else line for line in below]
        elif name in values:
            yield f"{indent}{name}: {_flow(values[name])}{_note(field)}"
        else:
            default = None if field.default is PydanticUndefined else field.default
            yield f"{indent}# {name}: {_flow(default)}{_note(field)}"


def _inner(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, also one that is left out by default."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()


def _note(field: FieldInfo) -> str:
    notes = [field.description or ""]
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    bounds = [
        f"{word} {bound:g}"
        for item in field.metadata
        for name, word in BOUNDS.items()
        if (bound := getattr(item, name, None)) is not None
    ]
    notes += [" | ".join(choices)] if choices else []
    notes += [", ".join(bounds)] if bounds else []
    text = "; ".join(note for note in notes if note)
    return f"  # {text}" if text else ""
