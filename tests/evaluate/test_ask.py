from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from residency import pipeline
from residency.errors import UserError
from residency.evaluate import asker
from residency.progress import Silent
from residency.prompts import Prompt
from residency.recipe import ModelSection, PromptSection, Recipe


class Hears(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_each_prompt_has_the_reply_of_the_base_model_under_plain_greedy(llama_folder: Path) -> None:
    hears = Hears()
    ask = asker(ModelSection(base=str(llama_folder)), 7, hears)
    assert ask([]) == []
    assert hears.said == []  # nothing is loaded before there is something to ask
    prompts = ["What helps a cough?", "A rash?", "Why is a sore knee warm on day 3?"]
    replies = ask(prompts)
    model = AutoModelForCausalLM.from_pretrained(llama_folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    for text, reply in zip(prompts, replies, strict=True):
        chat = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        output = model.generate(ids, max_new_tokens=7, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        assert reply == Prompt.build(PromptSection(), tokenizer).decode(output[0, ids.shape[1] :].tolist())
    assert ask(prompts[:1]) == replies[:1]
    assert len([text for text in hears.said if str(llama_folder) in text]) == 1


def test_questions_of_ones_own_are_answered_by_base_and_tuned(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.parse(
        small_recipe | {"train": {"method": "full", "max_steps": 12, "examples_per_step": 8, "learning_rate": 0.01}}
    )
    pipeline.prepare(recipe, tmp_path / "run")
    with pytest.raises(UserError, match="residency train"):
        pipeline.ask(tmp_path / "run", ["A cough?"])
    pipeline.train(recipe, tmp_path / "run")
    said = pipeline.ask(tmp_path / "run", ["A cough?", "A rash?"])
    assert [one["question"] for one in said] == ["A cough?", "A rash?"]
    assert all(set(one) == {"question", "base", "tuned"} for one in said)
    assert said[0]["tuned"] and said[0]["base"] != said[0]["tuned"]
