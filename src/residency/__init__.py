"""Turn a general language model into a specialist on your own dialogues, and prove that it became one.

from residency import Recipe, pipeline

recipe = Recipe.load("doctor.yaml")
page = pipeline.run(recipe, Path("runs/doctor"))
"""

from residency.errors import Interrupted, UserError
from residency.recipe import Recipe
from residency.workspace import Run

__all__ = ["Interrupted", "Recipe", "Run", "UserError"]
