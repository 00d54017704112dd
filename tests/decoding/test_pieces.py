from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residency import models
from residency.decoding.text import Pieces
from residency.prompts import Prompt
from residency.recipe import ModelSection, PromptSection

TEXTS = st.lists(st.sampled_from("ab #\n\u00e9\u4e16\U0001f600."), max_size=24).map("".join)


@pytest.fixture(scope="module")
def prompts(llama_folder: Path, neox_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    """A chat template, the plain one, and one with a text after the answer."""
    file = tmp_path_factory.mktemp("templates") / "ends.txt"
    file.write_text("Q: {question}\nA: {answer}\n##", "utf-8")
    llama, neox = (models.load_tokenizer(ModelSection(base=str(folder))) for folder in (llama_folder, neox_folder))
    own = PromptSection(template=str(file))
    return [Prompt.build(PromptSection(), llama), Prompt.build(PromptSection(), neox), Prompt.build(own, neox)]


def said(pieces: Pieces, ids: list[int]) -> list[str]:
    """What is heard after each token, up to a stop string, and at the end."""
    heard = []
    for token in ids:
        heard.append(pieces.add(token))
        if pieces.stopped:
            break
    return [*heard, pieces.end()]


@given(data=st.data())
def test_pieces_join_to_the_text_that_an_evaluation_would_read(data: Any, prompts: list[Prompt]) -> None:
    prompt = data.draw(st.sampled_from(prompts))
    if data.draw(st.booleans()):
        ids = prompt.tokenizer(data.draw(TEXTS), add_special_tokens=False)["input_ids"]
    else:
        ids = data.draw(st.lists(st.integers(0, len(prompt.tokenizer) - 1), max_size=16))
    assert "".join(said(Pieces(prompt.tokenizer, (), prompt), ids)) == prompt.decode(ids)


@given(data=st.data())
def test_nothing_of_a_stop_string_is_heard_wherever_tokens_are_cut(data: Any, prompts: list[Prompt]) -> None:
    tokenizer = prompts[0].tokenizer
    text = data.draw(TEXTS)
    stops = data.draw(st.lists(TEXTS.filter(bool), min_size=1, max_size=3))
    ids = [token for sign in text for token in tokenizer(sign, add_special_tokens=False)["input_ids"]]
    pieces = Pieces(tokenizer, stops)
    heard = "".join(said(pieces, ids))
    # The one that is complete first ends the answer; of several, the one that begins first.
    ends = [next((n for n in range(len(text) + 1) if stop in text[:n]), None) for stop in stops]
    complete = min((n for n in ends if n is not None), default=None)
    assert pieces.stopped == (complete is not None)
    if complete is None:
        assert heard == text
    else:
        assert heard == text[: min(text[:complete].find(stop) for stop in stops if stop in text[:complete])]


def test_text_is_heard_as_soon_as_it_is_certain(prompts: list[Prompt]) -> None:
    tokenizer = prompts[0].tokenizer
    ids = [token for sign in " rest, then STAY" for token in tokenizer(sign, add_special_tokens=False)["input_ids"]]
    heard = said(Pieces(tokenizer, ["STOP"], prompts[0]), ids)
    assert heard == ["", *"rest,", "", " t", *"hen", "", " ", "", "STA", "Y", ""]


def test_half_a_character_waits_for_its_other_half(prompts: list[Prompt]) -> None:
    tokenizer = prompts[0].tokenizer
    ids = tokenizer("\u4e16", add_special_tokens=False)["input_ids"]
    assert len(ids) == 3
    assert said(Pieces(tokenizer), ids) == ["", "", "\u4e16", ""]
    assert said(Pieces(tokenizer), ids[:2])[-1] == tokenizer.decode(ids[:2])
