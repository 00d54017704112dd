"""Commands about Residency itself: what this machine has, and what a recipe may hold."""

from __future__ import annotations

import json

from residency.cli.app import Debug, Json, app, session, show


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """What this machine has and what is missing: versions, device, memory, caches, extras."""
    with session(debug):
        from residency.checkup import as_dict, checkup

        looks = checkup()
        width = max(len(one.name) for one in looks)
        lines = [f"{one.name:<{width}}  {one.found}" + (f"  ({one.advice})" if one.advice else "") for one in looks]
        show(as_json, as_dict(looks), "\n".join(lines))


@app.command()
def schema(debug: Debug = False) -> None:
    """The JSON Schema of a recipe, for editors that complete and check YAML."""
    with session(debug):
        from residency.recipe import Recipe

        found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
        show(False, {}, json.dumps(found, indent=1, ensure_ascii=False))
