from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from residency import models, pipeline
from residency.chat import speaker, talk
from residency.chat.lines import questions
from residency.conversation import Conversation
from residency.decoding import chosen
from residency.errors import UserError
from residency.guard import Notice
from residency.prompts import Before
from residency.recipe import Recipe
from residency.workspace import Run


@pytest.fixture(scope="module")
def trained(llama_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe.parse(
        {
            "name": "small",
            "data": {"source": str(data_file), "question": "Description", "answer": "Doctor"},
            "model": {"base": str(llama_folder), "max_length": 128},
            "train": {"max_steps": 2, "examples_per_step": 8, "learning_rate": 0.01},
            "evaluate": {"max_new_tokens": 12},
        }
    )
    folder = tmp_path_factory.mktemp("runs") / "small"
    pipeline.prepare(recipe, folder)
    pipeline.train(recipe, folder)
    return folder


def sitting(folder: Path, *lines: str, **options: Any) -> tuple[str, list[str], Conversation]:
    written: list[str] = []
    notes: list[str] = []
    said = talk(folder, lines, written.append, notes.append, **options)
    return "".join(written), notes, said


def test_an_answer_is_what_transformers_gives_for_the_same_prompt(trained: Path) -> None:
    text, _, said = sitting(trained, "What about a fever?")
    prompt = models.load_prompt(Run.open(trained).recipe)
    model: Any = models.load_tuned(trained / "model", models.fast_dtype())
    ids = torch.tensor([prompt.prompt_ids("What about a fever?")])
    config = GenerationConfig(
        max_new_tokens=12, do_sample=False, eos_token_id=prompt.stop_ids, pad_token_id=prompt.tokenizer.pad_token_id
    )
    expected = prompt.decode(model.generate(ids, generation_config=config)[0, ids.shape[1] :].tolist())
    assert said.turns == [("What about a fever?", expected)]
    assert text.strip() == expected


def test_an_answer_comes_in_pieces_that_join_to_the_whole(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(trained)
    prompt = models.load_prompt(run.recipe)
    answer = "Rest, and drink water; née Müller. See a doctor if it is worse."
    tokens = prompt.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]

    def scripted(*_: Any, heard: Any, **__: Any) -> None:
        for token in [*tokens, prompt.stop_ids[-1]]:
            heard(token)

    monkeypatch.setattr(speaker.alone, "answer", scripted)
    heard: list[str] = []
    said = speaker.say(chosen.tuned(run, prompt), "A cough?", heard=heard.append)
    assert len(heard) > 5 and "".join(heard) == answer
    assert (said.text, said.tokens, said.ended) == (answer, len(tokens), "end")


def test_ctrl_c_stops_the_answer_and_not_the_conversation(trained: Path) -> None:
    notes: list[str] = []
    heard: list[str] = []

    def write(text: str) -> None:
        heard.append(text)
        if len(heard) == 1:
            raise KeyboardInterrupt

    said = talk(trained, ["A cough?", "A rash?"], write, notes.append)
    assert [question for question, _ in said.turns] == ["A cough?", "A rash?"]
    assert any("you stopped it" in note for note in notes)


def test_the_oldest_turns_leave_first_and_it_is_said(trained: Path) -> None:
    _, notes, said = sitting(trained, *[f"What about a sore knee on day {n}?" for n in range(9)])
    assert any("leave" in note and "128 tokens" in note for note in notes)
    assert said.turns[-1][0].endswith("day 8?") and len(said.turns) < 9
    assert [q for q, _ in said.turns] == [f"What about a sore knee on day {n}?" for n in range(9)][-len(said.turns) :]


def test_a_question_that_is_too_long_is_refused_in_a_line_and_the_next_is_answered(trained: Path) -> None:
    _, notes, said = sitting(trained, "knee " * 300, "A rash?")
    assert any("at most" in note for note in notes)
    assert [question for question, _ in said.turns] == ["A rash?"]


def test_what_was_said_stands_before_the_next_question(llama_folder: Path) -> None:
    recipe = Recipe.parse({"name": "x", "data": {"source": "clinic"}, "model": {"base": str(llama_folder)}})
    prompt = models.load_prompt(recipe)
    talked = Conversation("Be kind.", [("A cough?", "Rest."), ("And at night?", "Sleep.")])
    before, left = talked.before("And now?", prompt, 512, 20)
    assert (before, left) == (Before("Be kind.", tuple(talked.turns)), 0)
    assert talked.messages()[0] == {"role": "system", "content": "Be kind."}


def test_commands_reset_show_and_set_what_the_conversation_is(trained: Path) -> None:
    _, notes, said = sitting(trained, "A cough?", "/system", "/system Be brief.", "/system", "/help", "/sytem x")
    assert said == Conversation("Be brief.", [])
    assert "There is no system message." in notes and "System message: Be brief." in notes
    assert 'did you mean "/system"?' in notes[-1]
    _, _, said = sitting(trained, "A cough?", "/reset", "A rash?", "/exit", "never asked")
    assert [question for question, _ in said.turns] == ["A rash?"]


def test_the_base_model_answers_beside_the_tuned_one(trained: Path) -> None:
    text, _, said = sitting(trained, "/compare", "A cough?", "/compare", "A rash?")
    assert text.count("[tuned]") == text.count("[base]") == 1
    assert len(said.turns) == 2


def test_a_saved_conversation_is_data_to_train_on(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    _, notes, said = sitting(trained, "A cough?", "And then?", f"/save {file}", f"/save {file}", "/save")
    assert json.loads(file.read_text("utf-8"))["messages"] == said.messages()
    assert "there already" in notes[-2] and "no file name" in notes[-1]
    from residency.data.look import look

    assert look(str(file)).data["source"] == str(file)


def test_lines_of_a_pipe_may_belong_together() -> None:
    piped = io.StringIO('one\n\ntwo \\\nmore\n"""\nthree\n\nlines\n"""\n/exit\nlast \\')
    assert list(questions(piped)) == ["one", "two \nmore", "three\n\nlines", "/exit", "last"]


def test_the_command_works_in_a_pipe(trained: Path) -> None:
    command = [sys.executable, "-m", "residency", "chat", str(trained)]
    done = subprocess.run(command, input="A cough?\n/reset\n", capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == sitting(trained, "A cough?")[0]
    assert "Forgotten" in done.stderr


def test_an_untrained_run_is_refused(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.parse(small_recipe)
    Run.create(tmp_path / "run", recipe)
    with pytest.raises(UserError, match="residency train"):
        sitting(tmp_path / "run", "A cough?")


GUARDED = ("guard.emergencies=true", "guard.not_a_doctor=true", "guard.role=true")


def test_the_guard_speaks_beside_the_answer_and_leaves_it_as_it_is(trained: Path) -> None:
    plain, _, said = sitting(trained, "He can't breathe, what now?", "What is the capital of Peru?")
    marked: list[Notice] = []
    text, _, guarded = sitting(
        trained,
        "He can't breathe, what now?",
        "What is the capital of Peru?",
        overrides=GUARDED,
        mark=marked.append,
    )
    assert (text, guarded.turns) == (plain, said.turns)
    assert [notice.rule for notice in marked] == ["breathing", "not-a-doctor", "off-topic"]
    assert [[one["rule"] for one in turn] for turn in guarded.notices] == [["breathing", "not-a-doctor"], ["off-topic"]]
    assert said.notices == [[], []]


def test_what_is_urgent_is_said_before_the_answer(trained: Path) -> None:
    heard: list[str] = []
    talk(trained, ["He can't breathe, what now?"], heard.append, heard.append, overrides=GUARDED[:1])
    assert heard[0].startswith("[!] This may be an emergency")


def test_a_saved_conversation_has_the_notices_and_is_read_as_data(trained: Path, tmp_path: Path) -> None:
    sitting(trained, "He can't breathe, what now?", f"/save {tmp_path / 'talk.jsonl'}", overrides=GUARDED)
    saved = json.loads((tmp_path / "talk.jsonl").read_text("utf-8"))
    assert [notice["rule"] for notice in saved["messages"][1]["guard"]] == ["breathing", "not-a-doctor"]
    assert pipeline.init("again", str(tmp_path / "talk.jsonl"), tmp_path / "again.yaml").is_file()
    assert Recipe.load(tmp_path / "again.yaml").data.messages == "messages"


def test_overrides_of_a_conversation_leave_the_run_as_it_is(trained: Path) -> None:
    before = (trained / "recipe.yaml").read_text("utf-8")
    sitting(trained, "A cough?", overrides=GUARDED)
    assert (trained / "recipe.yaml").read_text("utf-8") == before
