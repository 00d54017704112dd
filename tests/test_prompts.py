from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from residency.errors import UserError
from residency.prompts import NOTHING, Before, Example, Prompt
from residency.recipe import PromptSection


@pytest.fixture(scope="module")
def chat(llama_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(llama_folder)


@pytest.fixture(scope="module")
def plain(neox_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(neox_folder)


def prompts(chat: Any, plain: Any) -> list[Prompt]:
    return [
        Prompt.build(PromptSection(), chat),
        Prompt.build(PromptSection(template="question-answer"), chat),
        Prompt.build(PromptSection(), plain),
    ]


@settings(deadline=None, max_examples=40)
@given(st.text(min_size=1, max_size=40), st.text(max_size=40))
def test_the_loss_covers_exactly_the_answer_and_its_end(chat: Any, plain: Any, question: str, answer: str) -> None:
    for prompt in prompts(chat, plain):
        example = prompt.example(question, answer)
        tokenizer = prompt.tokenizer
        assert list(example.input_ids[: example.learn_from]) == prompt.prompt_ids(question)
        learnt = list(example.input_ids[example.learn_from :])
        assert learnt == tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        assert example.learnt == len(learnt)


def test_a_chat_example_is_what_the_chat_template_makes(chat: Any) -> None:
    prompt = Prompt.build(PromptSection(system="Be kind."), chat)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
    ]
    whole = chat.apply_chat_template(messages, tokenize=False)
    assert prompt.full_text("Why?", "So.") == whole.removesuffix("\n")  # what follows the end token is never reached


def test_a_question_answer_text_is_the_tutorials(plain: Any) -> None:
    prompt = Prompt.build(PromptSection(), plain)
    assert prompt.full_text("Why?", "So.") == "### Question:\nWhy?\n\n### Answer:\nSo.<|endoftext|>"


def test_the_end_token_is_learnt_even_where_padding_is_the_same_token(plain: Any) -> None:
    plain.pad_token = plain.eos_token
    example = Prompt.build(PromptSection(), plain).example("Why?", "So.")
    assert example.input_ids[-1] == plain.pad_token_id
    assert example.learnt == len(plain("So.", add_special_tokens=False)["input_ids"]) + 1


def test_without_the_end_token_nothing_teaches_the_model_to_stop(plain: Any) -> None:
    section = PromptSection(end_token=False, learn="everything")
    prompt = Prompt.build(section, plain)
    example = prompt.example("Why?", "So.")
    assert plain.eos_token_id not in example.input_ids
    assert example.learn_from == 0
    assert example.learnt == len(example) - 1
    judged = prompt.answer_example("Why?", "So.")
    assert judged.input_ids[-1] == plain.eos_token_id
    assert judged.learn_from == len(prompt.prompt_ids("Why?"))


def test_a_cut_example_keeps_its_beginning(chat: Any) -> None:
    prompt = Prompt.build(PromptSection(), chat)
    whole = prompt.example("Why?", "because " * 50)
    cut = prompt.example("Why?", "because " * 50, 20)
    assert cut.input_ids == whole.input_ids[:20]
    assert cut.learn_from == whole.learn_from


def test_an_example_cut_within_its_prompt_teaches_nothing(chat: Any) -> None:
    prompt = Prompt.build(PromptSection(), chat)
    assert prompt.example("Why? " * 20, "So.", 5).learnt == 0
    assert Example((), 0).learnt == 0


def test_plain_text_has_no_prompt(chat: Any) -> None:
    example = Prompt.build(PromptSection(), chat).example("", "Some text.")
    assert example.learn_from == 0
    assert chat.decode(example.input_ids) == "Some text.<|im_end|>"


def test_an_answer_is_read_back_without_special_tokens(chat: Any) -> None:
    prompt = Prompt.build(PromptSection(), chat)
    ids = prompt.example("Why?", "So it is.").input_ids
    assert prompt.decode(list(ids[len(prompt.prompt_ids("Why?")) :])) == "So it is."


def test_an_own_template_is_used_with_what_follows_the_answer(chat: Any, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("Patient: {question}\nDoctor: {answer}\n--")
    prompt = Prompt.build(PromptSection(template=str(tmp_path / "t.txt")), chat)
    assert prompt.full_text("Why?", "So.") == "Patient: Why?\nDoctor: So.\n--<|im_end|>"


@pytest.mark.parametrize("tail", ["\n-- \n", "\n--<|im_end|>\n", ""])
def test_what_follows_the_answer_in_an_own_template_is_no_part_of_it(chat: Any, tmp_path: Path, tail: str) -> None:
    (tmp_path / "t.txt").write_text("Patient: {question}\nDoctor: {answer}" + tail)
    prompt = Prompt.build(PromptSection(template=str(tmp_path / "t.txt")), chat)
    ids = prompt.example("Why?", "So -- and so.").input_ids
    assert prompt.decode(list(ids[len(prompt.prompt_ids("Why?")) :])) == "So -- and so."


def test_a_template_that_is_no_utf_8_is_refused(chat: Any, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("Médecin: {question}{answer}".encode("latin-1"))
    with pytest.raises(UserError, match=r"t\.txt: can't be read.*a UTF-8 text file"):
        Prompt.build(PromptSection(template=str(tmp_path / "t.txt")), chat)


def test_a_chat_template_that_refuses_a_system_message_is_a_user_error(llama_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    Prompt.build(PromptSection(), tokenizer)
    with pytest.raises(UserError, match=r"System role not supported.*prompt\.system"):
        Prompt.build(PromptSection(system="Be kind."), tokenizer)


@pytest.mark.parametrize("framed", ["$A", "<|endoftext|> $A", "<|endoftext|> $A <|im_end|>"])
def test_a_text_begins_as_its_tokenizer_begins_and_only_the_answer_ends(llama_folder: Path, framed: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    special = [("<|endoftext|>", 0), ("<|im_end|>", 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=framed, special_tokens=special)
    begin = [0] if framed.startswith("<") else []
    chat, plain = (Prompt.build(PromptSection(template=name), tokenizer) for name in ("chat", "question-answer"))
    for prompt, own in ((chat, []), (plain, begin)):
        example = prompt.example("Why?", "So.")
        text = tokenizer(prompt.full_text("Why?", "So."), add_special_tokens=False)["input_ids"]
        assert list(example.input_ids) == own + text
        assert example.input_ids[: example.learn_from] == tuple(prompt.prompt_ids("Why?"))
        assert prompt.lengths([prompt.text("Why?")], ["So."]) == ([example.learn_from], [len(example)])
        assert prompt.example("", "Some text.").input_ids[: len(begin)] == tuple(begin)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{question}", r"{answer} does not stand in it once"),
        ("{question}{answer}{answer}", r"{answer} does not stand in it once"),
        ("{answer}{question}", r"{answer} stands before {question}"),
    ],
)
def test_a_faulty_template_is_refused(template: str, message: str, chat: Any, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(template)
    with pytest.raises(UserError, match=message):
        Prompt.build(PromptSection(template=str(tmp_path / "t.txt")), chat)


def test_settings_that_cannot_be_met_are_refused(plain: Any) -> None:
    with pytest.raises(UserError, match="no chat template"):
        Prompt.build(PromptSection(template="chat"), plain)
    with pytest.raises(UserError, match=r"prompt\.system is set"):
        Prompt.build(PromptSection(system="Be kind."), plain)
    with pytest.raises(UserError, match="no such file"):
        Prompt.build(PromptSection(template="mine.txt"), plain)


@settings(deadline=None, max_examples=40)
@given(pairs=st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=5))
def test_lengths_and_examples_by_batch_are_those_one_by_one(
    chat: Any, plain: Any, pairs: list[tuple[str, str]]
) -> None:
    questions, answers = [q for q, _ in pairs], [a for _, a in pairs]
    for prompt in prompts(chat, plain):
        for limit in (None, 12):
            batch = prompt.examples(((q, a, NOTHING) for q, a in pairs), limit)
            assert list(batch) == batch[:] == [prompt.example(q, a, limit) for q, a in pairs]
        asked, whole = prompt.lengths([prompt.text(question) for question in questions], answers)
        assert asked == [len(prompt.prompt_ids(question)) for question in questions]
        assert whole == [len(prompt.example(question, answer)) for question, answer in pairs]


TURNS = (("Why?", "So."), ("And then?", "Thus."))


def test_earlier_turns_stand_before_the_question_as_the_chat_template_has_them(chat: Any) -> None:
    prompt = Prompt.build(PromptSection(system="Be kind."), chat)
    messages = [{"role": "system", "content": "Be brief."}]
    for asked, answered in TURNS:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    messages.append({"role": "user", "content": "How?"})
    expected = chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.text("How?", Before("Be brief.", TURNS)) == expected
    example = prompt.example("How?", "Like this.", None, Before("Be brief.", TURNS))
    assert chat.decode(example.input_ids[example.learn_from :]) == "Like this.<|im_end|>"


def test_earlier_turns_are_blocks_of_the_template_where_there_is_no_chat(plain: Any) -> None:
    prompt = Prompt.build(PromptSection(template="question-answer"), plain)
    text = prompt.text("How?", Before("Be brief.", TURNS[:1]))
    assert text == "Be brief.\n\n### Question:\nWhy?\n\n### Answer:\nSo.\n\n### Question:\nHow?\n\n### Answer:\n"


def test_braces_of_the_users_are_text_and_not_placeholders(plain: Any) -> None:
    prompt = Prompt.build(PromptSection(), plain)
    text = prompt.text("Is {answer} right?", Before("", (("What is {answer}?", "A {question}."),)))
    assert text == (
        "### Question:\nWhat is {answer}?\n\n### Answer:\nA {question}.\n\n"
        "### Question:\nIs {answer} right?\n\n### Answer:\n"
    )


def test_special_tokens_are_what_a_tokenizer_reads_as_one_token_in_a_text(chat: Any, plain: Any) -> None:
    assert Prompt.build(PromptSection(), chat).special_tokens == ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
    prompt = Prompt.build(PromptSection(), plain)
    assert prompt.special_tokens == ("<|endoftext|>",)
    assert len(plain(prompt.special_tokens[0])["input_ids"]) == 1
