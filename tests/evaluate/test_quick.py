from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from residency import pipeline
from residency.evaluate.answers.generate import GREEDY, answer
from residency.evaluate.quick import judge
from residency.evaluate.scores import score
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.workspace import Run


def test_the_means_are_those_of_greedy_answers_to_the_first_validation_questions(
    small_recipe: dict[str, Any], llama_folder: Path, tmp_path: Path
) -> None:
    recipe = Recipe.parse({**small_recipe, "train": {"best_by": "chrf", "best_questions": 3}})
    pipeline.prepare(recipe, tmp_path)
    run, prompt = Run.open(tmp_path), Prompt.build(recipe.prompt, AutoTokenizer.from_pretrained(llama_folder))
    model = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32).eval()
    before = torch.random.get_rng_state()
    found = judge(recipe, run, prompt)(model)
    assert torch.equal(before, torch.random.get_rng_state())  # a resumed training would go another way
    asked = run.dialogues("validation")[:3]
    ids = [prompt.prompt_ids(dialogue.question) for dialogue in asked]
    given = answer(model, prompt, ids, GREEDY, max_new_tokens=12, batch=64).answers
    expected = [score.overlap(a.text, dialogue.answer) for a, dialogue in zip(given, asked, strict=True)]
    assert found["chrf"] == pytest.approx(sum(own["chrf"] for own in expected) / 3)
    assert found["rouge_l"] == pytest.approx(sum(own["rouge_l"] for own in expected) / 3)
    assert found["stopped"] == sum(a.stopped for a in given) / 3
