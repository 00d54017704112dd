from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from residency import models
from residency.recipe import ModelSection
from residency.sections import PromptTuningSection
from residency.train.adapters import attach_prompt
from residency.virtual import put_before, read


def pair(folder: Path, adapter: Path) -> tuple[Any, Any]:
    """peft's model with learnt embeddings, and ours made from what peft saves."""
    section = ModelSection(base=str(folder))
    torch.manual_seed(3)
    theirs = attach_prompt(models.load_base(section), PromptTuningSection(virtual_tokens=4))
    torch.nn.init.normal_(theirs.prompt_encoder["default"].embedding.weight, std=1.0)
    theirs.save_pretrained(adapter)
    return theirs.eval(), put_before(models.load_base(section), read(adapter))


@pytest.mark.parametrize("folder", ["llama_folder", "neox_folder"])
def test_logits_are_those_of_peft_and_of_the_prompts_tokens_alone(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    theirs, ours = pair(path, tmp_path)
    ids = torch.arange(3, 23).reshape(2, 10)
    with torch.no_grad():
        found, expected = ours(ids).logits, theirs(ids).logits[:, 4:]
        assert found.shape[:2] == ids.shape
        assert torch.allclose(found, expected, atol=1e-5)
        assert not torch.allclose(found, models.load_base(ModelSection(base=str(path)))(ids).logits, atol=1e-2)


@pytest.mark.parametrize("folder", ["llama_folder", "neox_folder"])
def test_an_answer_is_the_same_alone_and_padded_in_a_batch_and_without_a_cache(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    _, model = pair(request.getfixturevalue(folder), tmp_path)
    prompts = [[5, 6, 7, 8, 9, 10, 11], [40, 41, 42]]
    ids = torch.tensor([prompts[0], [0] * 4 + prompts[1]])
    mask = torch.tensor([[1] * 7, [0] * 4 + [1] * 3])
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    batch = model.generate(input_ids=ids, attention_mask=mask, **settings)[:, 7:]
    for row, prompt in enumerate(prompts):
        alone = torch.tensor([prompt])
        for cached in (True, False):
            found = model.generate(alone, attention_mask=torch.ones_like(alone), use_cache=cached, **settings)
            assert found[0, len(prompt) :].tolist() == batch[row].tolist()
        step_by_step = list(prompt)
        for _ in range(8):
            with torch.no_grad():
                step_by_step.append(int(model(torch.tensor([step_by_step])).logits[0, -1].argmax()))
        assert step_by_step[len(prompt) :] == batch[row].tolist()
