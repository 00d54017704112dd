from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from residency.evaluate import asker
from residency.progress import Silent
from residency.prompts import Prompt
from residency.recipe import ModelSection, PromptSection


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
