from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.data.synthesise import PROMPT, Replies, Synthesised, synthesise
from residency.data.synthesise.glossary import glossary
from residency.data.synthesise.model import prompt
from residency.data.synthesise.passages import Passage, documents
from residency.data.synthesise.sections import sections
from residency.data.synthesise.words import sentences, words
from residency.endpoint import Endpoint
from residency.errors import UserError
from residency.recipe import Recipe
from residency.sections import SynthesiseSection
from servers import Answering, Listening, listening

ASTHMA = """\
---
title: "Asthma"
date: 2024-05-01
---
Asthma is a common lung condition that causes occasional breathing difficulties.

## Symptoms

The main symptoms of asthma are:

- wheezing (a whistling sound when breathing)
- a tight chest

## Treatment

### Reliever inhalers

A reliever inhaler relaxes the muscles around the airways. It works within 5 minutes.

### How to use an inhaler

Shake it, breathe out, and press while you breathe in slowly.

## FAQ

**Can asthma be cured?**

There is no cure for asthma, but a reliever inhaler can help.

Q: Is it safe to exercise?
A: Yes, most people with asthma can exercise safely.

Does asthma run in families?
It often does, and allergies in the family raise the risk.

## Glossary

**Spacer**: a hollow plastic tube. With a spacer, an inhaler is easier to use.
COPD - chronic obstructive pulmonary disease, another lung condition.

## References

1. Some book about the lungs and more.
"""
PLAIN = """\
High Blood Pressure

SYMPTOMS

High blood pressure often has no symptoms. Many people with high blood pressure feel well for years.

1. Causes

Too much salt and too little exercise can raise the pressure in the arteries.

Living with it
You may want to measure your blood pressure at home and write it down each day.

What is a normal reading?

A normal reading is below 120/80 mmHg in most adults.
"""


def table(*texts: str | None, **columns: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(
        {"row": range(1, len(texts) + 1), "text": texts, **columns}, schema_overrides={"row": pl.UInt32}
    )


def by_rules(*texts: str | None, **values: Any) -> Synthesised:
    return synthesise(table(*texts), SynthesiseSection(**values))


def questions(text: str, **values: Any) -> list[str]:
    return by_rules(text, **values).rows["question"].to_list()


def answers(text: str) -> dict[str, str]:
    return dict(by_rules(text).rows.select("question", "answer").iter_rows())


def by_model(text: str, *replies: str, **values: Any) -> Synthesised:
    """What is kept of a model's replies, one for each passage."""
    left = list(replies)
    section = SynthesiseSection(by=("model",), **values)
    return synthesise(table(text), section, ask=lambda prompts: [left.pop(0) for _ in prompts])


def reply(*pairs: tuple[Any, Any]) -> str:
    return json.dumps({"pairs": [{"question": question, "answer": answer} for question, answer in pairs]})


# By rules


def test_a_markdown_document_becomes_the_questions_that_its_forms_ask() -> None:
    assert questions(ASTHMA) == [
        "What is asthma?",
        "What are the symptoms of asthma?",
        "What should I know about asthma: reliever inhalers?",
        "How do I use an inhaler?",
        "Can asthma be cured?",
        "Is it safe to exercise?",
        "Does asthma run in families?",
        "What is a spacer?",
        "What does COPD mean?",
    ]


def test_a_plain_text_has_headings_too() -> None:
    assert questions(PLAIN) == [
        "What are the symptoms of high blood pressure?",
        "What causes high blood pressure?",
        "What should I know about high blood pressure: living with it?",
        "What is a normal reading?",
    ]


def test_an_answer_is_the_text_under_its_heading_without_the_marks_of_the_form() -> None:
    found = answers(ASTHMA)
    assert found["Is it safe to exercise?"] == "Yes, most people with asthma can exercise safely."
    assert found["What are the symptoms of asthma?"].endswith("- a tight chest")
    assert found["What does COPD mean?"] == "chronic obstructive pulmonary disease, another lung condition."


def test_each_pair_is_kept_with_its_document_row_and_passage() -> None:
    found = synthesise(table(ASTHMA, PLAIN, source=["a.md", None]), SynthesiseSection()).rows
    assert found.columns == ["row", "question", "answer", "passage", "source"]
    assert found.schema["row"] == pl.UInt32
    assert dict(found.select("row", "source").iter_rows()) == {1: "a.md", 2: None}
    for answer, passage in found.select("answer", "passage").iter_rows():
        assert answer in passage


def test_headings_that_ask_nothing_and_empty_documents_are_counted() -> None:
    found = by_rules(ASTHMA, "", None, "## Symptoms\n\nA cough that lasts for weeks.")
    assert found.dropped == {
        "document without text": 2,
        "heading of references, contents or the like": 1,
        "common heading without a topic": 1,
    }
    assert found.unused == 2
    assert found.prompt is None


@pytest.mark.parametrize(
    ("heading", "question"),
    [
        ("Causes", "What causes gout?"),
        ("2.1 Treatment:", "How is gout treated?"),
        ("Overview", "What is gout?"),
        ("When to see a doctor", "When should I see a doctor about gout?"),
        ("What is gout", "What is gout?"),
        ("**Who** gets [gout](https://a.example)?", "Who gets gout?"),
        ("How to eat with gout", "How do I eat with gout?"),
        ("Life with gout", "What should I know about life with gout?"),
        ("3 ways to rest", "What should I know about gout: 3 ways to rest?"),
    ],
)
def test_a_heading_is_asked_for_in_the_words_of_its_kind(heading: str, question: str) -> None:
    text = f"# Gout\n\n## {heading}\n\nIn life, gout hurts the joints of the foot at night.\n"
    assert questions(text) == [question]


@pytest.mark.parametrize(
    ("title", "text", "question"),
    [
        ("Allergies", "Most allergies are harmless.", "How are allergies treated?"),
        ("Diabetes", "Sugar is in the blood.", "How is Diabetes treated?"),
        ("Hay Fever", "Pollen causes hay fever in spring.", "How is hay fever treated?"),
        ("What is a stroke?", "It needs help at once.", "How is stroke treated?"),
    ],
)
def test_the_topic_is_written_as_the_document_writes_it(title: str, text: str, question: str) -> None:
    found = questions(f"# {title}\n\n{text}\n\n## Treatment\n\nA doctor chooses what helps best.")
    assert question in found


def test_questions_in_a_row_are_a_list_and_no_pairs() -> None:
    text = (
        "# Visit\n\nAsk this at your visit:\n\nDo I need it?\n\nHow often do I come?\n\nKeep a diary of all your days."
    )
    assert questions(text) == ["What should I know about visit?"]
    assert len(sections(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Many people smoke and do not know\nwhether it harms them. Do you know\nDo they ask?\nThen it is time.",
        "Ask this of your doctor:\n\n- Do I need it?\n- How often?\n\nWrite it down at once.",
        "1. Do I need it?\n2. Is it safe?\n3. And for how long?",
        "Is it safe? Most people say yes?\n\nNobody knows that.",
        "Who will come?",
    ],
)
def test_prose_and_lists_that_only_look_like_faqs_stay_text(text: str) -> None:
    (only,) = sections(text)
    assert only.headings == ()
    assert words(" ".join(only.paragraphs)) == words(text)


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        ("Q: What?\nA: This is it.", "What?", "This is it."),
        ("Q: What? A: This is it.", "What?", "This is it."),
        ("**Q1: What?**\n\n**A:** This is it.", "What?", "This is it."),
        ("Question: Who is\nthis man?\n\nAnswer: It is me.", "Who is this man?", "It is me."),
        ("Q. Who? Is it you?\nA.\nIt is me.", "Who? Is it you?", "It is me."),
        ("- **What is it?** It is this.", "What is it?", "It is this."),
        (
            "1.2 Why can't I run\n    on 64 bit systems?\n\nBecause you can't.",
            "Why can't I run on 64 bit systems?",
            "Bec",
        ),
        ("Q: Is vitamin A. good? A: Yes, it is.", "Is vitamin A. good?", "Yes, it is."),
        ("¿Qué es esto?\nEs un libro.", "¿Qué es esto?", "Es un libro."),
    ],
)
def test_every_common_form_of_question_and_answer_is_read(text: str, question: str, answer: str) -> None:
    (only,) = sections(text)
    assert only.headings == (question,)
    assert only.paragraphs[0].startswith(answer)


def test_an_answer_of_several_paragraphs_stays_whole() -> None:
    (first, second) = sections("Q: One?\nA: Yes.\n\nReally.\n\nQ: Two?\nA: No.")
    assert first.paragraphs == ("Yes.", "Really.")
    assert second.headings == ("Two?",)


def test_code_holds_no_headings_no_terms_and_an_open_fence_is_no_code() -> None:
    text = "# Run\n\nDo this:\n\n```sh\n# a comment: which is no heading\n\nWhat?\nyes\n```\n"
    (only,) = sections(text)
    assert only.headings == ("Run",)
    assert glossary(only.paragraphs[1]).entries == ()
    assert [s.headings for s in sections("Title\n~~~~~\n\n# Next\n\nText.")] == [(), ("Next",)]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("ACE: an enzyme of the lung\nMI: death of a heart\nmuscle by want of blood", ["an enzyme of the lung", None]),
        ("* **Stent:** a tube in a vessel\n* **Clot** - a lump of thick blood", ["a tube in a vessel", None]),
        ("Stent\n: A tube in a vessel.\n: It stays there.", ["A tube in a vessel. It stays there."]),
    ],
)
def test_terms_are_read_with_their_definitions(text: str, entries: list[str | None]) -> None:
    found = glossary(text)
    assert len(found.entries) == len(entries)
    assert found.share == 1
    assert found.entries[0][1] == entries[0]
    assert found.entries[-1][1].endswith(("blood", "there."))


@pytest.mark.parametrize(
    "text",
    ["Note: do not take this at night.", "Phone: call us on any day of the week.", "It ends at 10:30 every day now."],
)
def test_a_note_an_address_and_a_time_are_no_terms(text: str) -> None:
    assert glossary(text).entries == ()


def test_one_term_in_prose_makes_no_glossary() -> None:
    text = (
        "# Heart\n\nThe plan: rest for two weeks at home.\n\nThen walk. Walk every day, and a little more each week.\n"
    )
    assert questions(text) == ["What should I know about heart?"] or questions(text) == [
        "What should I know about Heart?"
    ]


# Passages

PROSE = st.lists(
    st.sampled_from(
        [
            "The heart beats.",
            "Dr. Smith, e.g. Jane, agrees!",
            "So it is!",
            "Rest helps 3.5 times more.",
            "It hurts,\nand so on.",
        ]
    ),
    min_size=1,
    max_size=30,
).map(" ".join)
BLOCKS = st.lists(st.one_of(PROSE, st.sampled_from(["## One", "- a\n- b\n- c", "```\nx. Y\n```"])), max_size=8)


@settings(deadline=None, max_examples=40)
@given(BLOCKS, st.integers(20, 60))
def test_passages_hold_every_word_in_order_and_end_where_a_sentence_ends(blocks: list[str], longest: int) -> None:
    (document,) = documents(table("\n\n".join(blocks)), longest)
    held = [word for passage in document.passages for word in words(passage.text)]
    assert held == [word for block in blocks if not block.startswith("#") for word in words(block)]
    for passage, following in zip(document.passages, document.passages[1:], strict=False):
        joined = passage.text + " " + following.text
        assert following.part == 0 or sentences(joined)[0] != joined
        if len(words(passage.text)) > longest:
            assert len(sentences(passage.text)) == 1


@settings(deadline=None, max_examples=40)
@given(st.text("aB.?! \n。Dr(\"'", max_size=60))
def test_sentences_joined_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text


def test_abbreviations_and_numbers_end_no_sentence() -> None:
    assert sentences('Dr. Smith took 2.5 mg, e.g. Aspirin. J. Doe did not. "Why?" He left.') == [
        "Dr. Smith took 2.5 mg, e.g. Aspirin. ",
        "J. Doe did not. ",
        '"Why?" ',
        "He left.",
    ]
    assert sentences("心臓です。肺です。") == ["心臓です。", "肺です。"]


def test_a_passage_never_crosses_a_heading_and_knows_the_way_to_it() -> None:
    (document,) = documents(table("# A\n\nOne.\n\n## B\n\nTwo.\n\n# C\n\nThree."), 200)
    assert [(p.headings, p.text) for p in document.passages] == [
        (("A",), "One."),
        (("A", "B"), "Two."),
        (("C",), "Three."),
    ]


def test_what_ends_in_a_colon_stays_with_its_list() -> None:
    text = f"{'Word ' * 17}end.\n\nIt has these parts:\n\n- {'one ' * 9}\n- {'two ' * 9}"
    (document,) = documents(table(text), 25)
    assert [p.text.split()[0] for p in document.passages] == ["Word", "It"]


def test_a_long_list_is_cut_between_items() -> None:
    (document,) = documents(table("\n".join(f"- item {'word ' * 8}" for _ in range(6))), 20)
    assert [p.text.count("- item") for p in document.passages] == [2, 2, 2]


# By a model

TEXT = "# Gout\n\nGout is caused by crystals of uric acid. Two tablets of colchicine a day ease gout within 24 hours."


def test_a_model_is_asked_with_the_shown_prompt_the_headings_and_the_passage() -> None:
    seen: list[str] = []

    def ask(prompts: list[str]) -> list[str]:
        seen.extend(prompts)
        return [reply(("What causes gout?", "Crystals of uric acid cause it."))]

    found = synthesise(table(TEXT), SynthesiseSection(by=("model",), pairs=2), ask)
    assert found.prompt == PROMPT
    assert found.rows["question"].to_list() == ["What causes gout?"]
    (asked,) = seen
    assert "up to 2 question" in asked
    assert "Subject: Gout" in asked
    assert asked.endswith("within 24 hours.\n</passage>")
    assert '{"pairs": [' in asked


def test_dollars_and_braces_in_a_passage_reach_the_model_as_they_are() -> None:
    assert "costs $pairs and {subject}" in prompt(Passage(1, None, (), "It costs $pairs and {subject}."), 3)


@pytest.mark.parametrize(
    "text",
    [
        "Sure! Here it is [as you asked]:\n```json\n{}\n```",
        "{}",
        "{}\n{}",
    ],
)
def test_a_reply_is_read_with_whatever_stands_around_the_json(text: str) -> None:
    pairs = reply(("What causes gout?", "Crystals of uric acid cause it."))
    for value in (pairs, json.dumps(json.loads(pairs)["pairs"])):
        assert by_model(TEXT, text.replace("{}", value)).rows.height == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I can't.", "reply without JSON"),
        ('{"pairs": [{"question": "What', "reply without JSON"),
        ("[" * 5000, "reply without JSON"),
        ('{"answers": 1}', "reply without a list of pairs"),
        ('{"pairs": "none"}', "reply without a list of pairs"),
        (reply((None, "Crystals.")), "pair without question or answer"),
        (reply((" ", "Crystals.")), "pair without question or answer"),
        ('{"pairs": ["What?"]}', "pair without question or answer"),
        (reply(("Tell me what causes gout.", "Crystals of uric acid.")), "question without a question mark"),
        (reply(("Gout?", "Crystals of uric acid.")), "question too short"),
        (reply(("What " * 61 + "?", "Crystals of uric acid.")), "question too long"),
        (reply(("What causes gout?", "Uric acid.")), "answer too short"),
        (reply(("What causes gout?", "Crystals of uric acid. " * 11)), "answer longer than its passage"),
        (reply(("What does the passage say?", "Crystals of uric acid.")), "question about the text itself"),
        (reply(("What causes gout?", "Beer and red meat every evening.")), "answer not grounded in its passage"),
        (
            reply(("What helps gout?", "Colchicine eases gout within 48 hours.")),
            NUMBER := "answer with a number that its passage does not have",
        ),
        (reply(("What helps gout?", "Three tablets of colchicine a day.")), NUMBER),
        (reply(("What causes gout?", "Crystals of uric acid \ud83d.")), "characters that are no text"),
    ],
)
def test_what_is_no_pair_is_counted_by_its_reason(text: str, reason: str) -> None:
    found = by_model(TEXT, text)
    assert found.dropped == {reason: 1}
    assert found.rows.is_empty()
    assert (found.passages, found.unused) == (1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        "Take 2 tablets of colchicine a day.",
        "One of the things that ease gout is colchicine.",
        "1. Colchicine eases gout.\n2. It takes 24 hours.",
        "Gout's crystals ease within hours.",
    ],
)
def test_an_answer_in_other_forms_of_the_passages_words_and_numbers_is_grounded(answer: str) -> None:
    assert by_model(TEXT, reply(("What helps with gout?", answer))).dropped == {}


def test_how_much_must_be_grounded_is_the_recipes() -> None:
    text = reply(("What causes gout?", "Beer and red meat every evening."))
    assert by_model(TEXT, text, grounded=0).rows.height == 1


def test_no_pairs_in_a_reply_is_no_fault() -> None:
    found = by_model(TEXT, '{"pairs": []}')
    assert (found.dropped, found.unused) == ({}, 1)


def test_a_model_is_asked_some_at_once_is_told_of_and_spared_the_shortest() -> None:
    batches: list[int] = []
    told: list[tuple[str, int, int]] = []

    def ask(prompts: list[str]) -> list[str]:
        batches.append(len(prompts))
        return ['{"pairs": []}'] * len(prompts)

    text = (
        "\n\n".join(f"# Part {n}\n\nThis part has more than eight words in all, {n}." for n in range(5))
        + "\n\n# X\n\nNo."
    )
    found = synthesise(
        table(text),
        SynthesiseSection(by=("model",), at_once=2),
        ask,
        lambda name, done, total: told.append((name, done, total)),
    )
    assert batches == [2, 2, 1]
    assert told == [("synthesise", done, 5) for done in (0, 2, 4, 5)]
    assert found.passages == 6


def test_rules_and_model_go_together_and_the_rules_pair_comes_first() -> None:
    model = reply(
        ("What is GOUT?", "Crystals of uric acid cause gout."),
        ("What helps with gout?", "Colchicine eases gout within hours."),
    )
    section = SynthesiseSection(by=("rules", "model"))
    found = synthesise(table(TEXT), section, ask=lambda prompts: [model] * len(prompts))
    assert found.rows["question"].to_list() == ["What is gout?", "What helps with gout?"]
    assert found.dropped == {"near duplicate": 1}


# Repeats


def test_a_repeat_in_another_document_is_dropped_and_counted() -> None:
    found = by_rules(ASTHMA, ASTHMA)
    assert found.rows["row"].unique().to_list() == [1]
    assert found.dropped["exact duplicate"] == 9


def test_the_same_small_print_under_many_titles_is_kept_once() -> None:
    notice = "## Notice\n\nThis leaflet does not take the place of a talk with your own doctor or nurse."
    found = by_rules(f"# Gout\n\n{notice}", f"# Flu\n\n{notice}")
    assert found.dropped == {"near duplicate": 1}


def test_like_questions_of_other_passages_with_other_answers_are_kept() -> None:
    title = "# Long term care of chronic obstructive pulmonary disease in older adults at home"
    found = by_rules(
        f"{title}\n\n## Food\n\nEat small meals often each day.\n\n## Sport\n\nWalk a little further every week."
    )
    assert found.dropped == {}
    assert found.rows.height == 2


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text("#*?:-Qa. \nA1", max_size=80), max_size=4))
def test_any_text_at_all_gives_pairs_that_stand_in_their_passages(texts: list[str]) -> None:
    found = by_rules(*texts)
    assert found.rows.select("question", "answer").is_duplicated().sum() == 0
    assert 0 <= found.unused <= found.passages
    assert found.rows["passage"].n_unique() <= found.passages - found.unused
    for question, answer, passage in found.rows.select("question", "answer", "passage").iter_rows():
        assert question.endswith("?")
        assert set(words(answer)) <= set(words(passage))


# An endpoint


class Server(Listening):
    """Answers each request with the next of its scripted replies: status, headers, body."""

    script: list[tuple[int, dict[str, str], str]]
    seen: list[tuple[str, str | None, dict[str, Any]]]


class Handler(Answering):
    server: Server

    def do_POST(self) -> None:
        body = self.body()
        self.server.seen.append((self.path, self.headers["Authorization"], body))
        status, headers, text = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        if status == 0:  # hang up
            self.close_connection = True
            return
        self.send(text, status, headers)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with listening(Server, Handler) as opened:
        opened.script, opened.seen = [], []
        yield opened


def completion(content: str | None) -> tuple[int, dict[str, str], str]:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


def refusal(status: int, message: str) -> tuple[int, dict[str, str], str]:
    return status, {}, json.dumps({"error": {"message": message}})


def patient(server: Server, slept: list[float] | None = None, **values: Any) -> Endpoint:
    """The endpoint of a recipe, its waits noted instead of waited."""
    section = SynthesiseSection(by=("model",), endpoint=server.address, model="small", **values)
    waits = slept if slept is not None else []
    return replace(Endpoint.of(section), sleep=waits.append)


def test_an_endpoint_is_asked_in_its_own_form_with_the_key_of_the_environment(server: Server) -> None:
    server.script = [completion(reply(("What causes gout?", "Crystals of uric acid cause it.")))]
    section = SynthesiseSection(by=("model",), endpoint=server.address + "/", model="small", temperature=0)
    found = synthesise(table(TEXT), section)
    assert found.rows["question"].to_list() == ["What causes gout?"]
    ((path, key, body),) = server.seen
    assert (path, key) == ("/v1/chat/completions", "Bearer sk-secret")
    assert (body["model"], body["temperature"]) == ("small", 0)
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_replies_come_back_in_the_order_of_the_prompts(server: Server) -> None:
    server.script = [completion("same")]
    server.RequestHandlerClass = type("Echo", (Handler,), {"do_POST": _echo})
    assert patient(server).ask([str(n) for n in range(8)]) == [str(n) for n in range(8)]
    assert patient(server).ask([]) == []


def _echo(handler: Handler) -> None:
    body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
    status, _, text = completion(body["messages"][0]["content"])
    handler.send_response(status)
    handler.end_headers()
    handler.wfile.write(text.encode())


def test_a_busy_server_is_asked_again_after_longer_waits(server: Server) -> None:
    server.script = [(503, {}, ""), (429, {"Retry-After": "7"}, ""), (0, {}, ""), (500, {}, ""), completion("yes")]
    slept: list[float] = []
    assert patient(server, slept).ask(["?"]) == ["yes"]
    assert slept == [1, 7, 4, 8]


def test_the_tries_are_bounded_and_the_last_fault_is_told(server: Server) -> None:
    server.script = [(429, {}, '{"error": {"message": "quota is used up"}}')]
    with pytest.raises(UserError, match=r"no reply after 3 tries \(HTTP 429: quota is used up\); .*ask less at once"):
        patient(server, retries=2).ask(["?"])
    assert len(server.seen) == 3


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(server: Server) -> None:
    release = threading.Event()
    server.RequestHandlerClass = type("Slow", (Handler,), {"do_POST": lambda _: release.wait(10)})
    try:
        with pytest.raises(UserError, match=r"no reply after 1 tries \(nothing within 0\.2 seconds\)"):
            patient(server, retries=0, timeout=0.2).ask(["?"])
    finally:
        release.set()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (refusal(401, "bad key sk-secret"), r"refuses the key \(HTTP 401: bad key \*\*\*\); check OPENAI_API_KEY"),
        (refusal(404, "no model small"), r"not found there \(HTTP 404: no model small\); expected the base address"),
        ((302, {"Location": "http://127.0.0.1:9/"}, ""), r"not found there \(HTTP 302: Found\)"),
        ((400, {}, "too long"), r"refuses the request \(HTTP 400: too long\)"),
        ((200, {}, "<html>hello</html>"), r"replies in another form \(<html>hello</html>\); expected JSON with"),
        ((200, {}, '{"choices": []}'), r"replies in another form"),
        ((200, {}, '["sk-secret"]'), r"replies in another form \(\[\"\*\*\*\"\]\)"),
    ],
)
def test_what_an_endpoint_does_not_do_is_said_in_one_line_and_at_once(
    server: Server, script: tuple[int, dict[str, str], str], message: str
) -> None:
    server.script = [script]
    with pytest.raises(UserError, match=message) as caught:
        patient(server).ask(["?"])
    assert len(server.seen) == 1
    assert "\n" not in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_an_answer_that_a_model_declines_is_a_reply_without_json(server: Server) -> None:
    server.script = [completion(None)]
    found = synthesise(table(TEXT), SynthesiseSection(by=("model",), endpoint=server.address, model="small"))
    assert found.dropped == {"reply without JSON": 1}


def test_an_address_where_nobody_listens_is_a_user_error(server: Server) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    endpoint = replace(patient(server), address=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(UserError, match=r"can't be reached \(.*refused\)"):
        endpoint.ask(["?"])


@pytest.mark.parametrize(
    ("key", "message"), [("", "OPENAI_API_KEY is not set"), ("schlüssel", "characters that no key")]
)
def test_without_a_key_nothing_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str, message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match=message):
        synthesise(table(TEXT), SynthesiseSection(by=("model",), endpoint=server.address, model="small"))
    assert server.seen == []


def test_a_server_that_needs_no_key_is_sent_none(server: Server) -> None:
    server.script = [completion("yes")]
    assert patient(server, key_env=None).ask(["?"]) == ["yes"]
    assert server.seen[0][1] is None


def test_the_key_is_in_no_representation_of_the_endpoint(server: Server) -> None:
    assert "sk-secret" not in repr(patient(server))


# Replies that are kept


def passages(count: int) -> str:
    return "\n\n".join(
        f"# Part {n}\n\nThe gland of part {n} makes a hormone that the body needs." for n in range(count)
    )


def about(prompt: str) -> tuple[int, dict[str, str], str]:
    number = prompt.split("gland of part ")[1].split(maxsplit=1)[0]
    return completion(
        reply((f"What does the gland of part {number} make?", f"It makes hormone {number}, which the body needs."))
    )


@pytest.mark.parametrize("at_once", [1, 4])
def test_what_an_endpoint_answered_before_it_failed_is_not_asked_again(
    server: Server, tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failing = Endpoint._post, [True]

    def post(self: Endpoint, body: dict[str, Any]) -> bytes:
        prompt = body["messages"][0]["content"]
        if failing and "gland of part 5 " in prompt:
            raise UserError("the endpoint broke")
        with one_at_a_time:
            server.script = [about(prompt)]
            return real(self, body)

    one_at_a_time = threading.Lock()
    monkeypatch.setattr(Endpoint, "_post", post)
    section = SynthesiseSection(
        by=("model",), endpoint=server.address, model="small", at_once=at_once, near_duplicate=1.0
    )
    file = tmp_path / "replies.jsonl"
    with pytest.raises(UserError, match="broke"):
        synthesise(table(passages(8)), section, replies=Replies(file, "small"))
    answered = len(server.seen)
    assert answered == 5 if at_once == 1 else 1 <= answered < 8
    with file.open("a") as torn:
        torn.write('{"prompt": "0a')
    failing.clear()
    found = synthesise(table(passages(8)), section, replies=Replies(file, "small"))
    assert len(server.seen) == 8
    assert found.rows["question"].to_list() == [f"What does the gland of part {n} make?" for n in range(8)]
    synthesise(table(passages(8)), section, replies=Replies(file, "small"))
    assert len(server.seen) == 8
    synthesise(table(passages(8)), section, replies=Replies(file, "another"))
    assert len(server.seen) == 16


def test_the_runs_own_model_is_asked_once_for_each_passage_as_well(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return ["nothing" for _ in prompts]

    for _ in range(2):
        found = synthesise(
            table(TEXT), SynthesiseSection(by=("model",)), ask, replies=Replies(tmp_path / "kept.jsonl", "m")
        )
        assert found.dropped == {"reply without JSON": 1}
    assert len(asked) == 1


# The section


def test_a_model_that_is_not_there_and_a_column_that_is_missing_are_user_errors() -> None:
    with pytest.raises(UserError, match="has model, and there is none to ask"):
        synthesise(table(TEXT), SynthesiseSection(by=("model",)))
    with pytest.raises(UserError, match="no column text; expected documents"):
        synthesise(pl.DataFrame({"row": [1], "body": ["x"]}), SynthesiseSection())


def test_no_documents_are_no_pairs() -> None:
    found = synthesise(table().cast({"text": pl.String}), SynthesiseSection())
    assert (found.rows.height, found.dropped, found.passages) == (0, {}, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "m"}, "add the endpoint"),
        ({"endpoint": "http://a/v1", "model": "m"}, "only where by has model"),
        ({"by": ["model"], "endpoint": "http://a/v1"}, "endpoint needs model"),
        ({"by": ["model"], "endpoint": "file:///etc/passwd", "model": "m"}, "expected an address such as https"),
        ({"by": ["model"], "endpoint": "http://me:pw@a/v1", "model": "m"}, "no user name"),
        ({"by": ["model"], "endpoint": "http://a:x/v1", "model": "m"}, "expected an address"),
        ({"by": []}, "synthesise.by"),
        ({"passage_word": 9}, 'did you mean "passage_words"'),
    ],
)
def test_a_fault_in_the_section_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe.parse({"name": "x", "data": {"source": "clinic", "synthesise": values}})


def test_a_recipe_without_the_section_makes_none_and_every_field_of_it_is_described() -> None:
    assert Recipe.load().data.synthesise is None
    assert all(field.description for field in SynthesiseSection.model_fields.values())
