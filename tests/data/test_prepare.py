from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import dialogues, write_jsonl
from residency.data import DataReport, prepare
from residency.errors import UserError
from residency.models import load_tokenizer
from residency.prompts import Prompt
from residency.recipe import Recipe
from residency.workspace import Run


@pytest.fixture(scope="session")
def tokenizer(llama_folder: Path) -> Any:
    return load_tokenizer(
        Recipe.parse({"name": "x", "data": {"source": "s"}, "model": {"base": str(llama_folder)}}).model
    )


def run_prepare(rows: list[dict[str, Any]], folder: Path, tokenizer: Any, **changes: Any) -> tuple[DataReport, Run]:
    """Prepare rows under a recipe; `changes` go into its sections, such as data={"rows": 3}."""
    raw: dict[str, Any] = {"name": "x", "data": {"source": str(write_jsonl(folder / "rows.jsonl", rows)), "seed": 5}}
    for section, values in changes.items():
        raw.setdefault(section, {}).update(values)
    recipe = Recipe.parse(raw)
    run = Run.create(folder / "run", recipe)
    return prepare(recipe, run, Prompt.build(recipe.prompt, tokenizer)), run


messy_text = st.sampled_from(["", " ", "Q. ", "a", "What is a cold?", "what is a COLD?", "Rest, drink.", "x@y.example"])


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(messy_text, messy_text), min_size=1, max_size=12))
def test_every_row_is_kept_or_counted_as_dropped(pairs: list[tuple[str, str]], tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"question": q, "answer": a} for q, a in pairs]
    try:
        report, run = run_prepare(rows, tmp_path, tokenizer, data={"test": 0.0, "validation": 0.0})
    except UserError as error:
        assert "no row is left" in str(error)
        return
    dropped = pl.read_parquet(run.folder / "data" / "dropped.parquet")
    kept = [row["row"] for row in run.read_jsonl("data/train.jsonl", "prepare")]
    assert report.rows_in == len(rows) == report.kept + sum(report.dropped.values())
    assert sorted(kept + dropped["row"].to_list()) == list(range(1, len(rows) + 1))


def test_splits_are_written_in_every_form_and_hold_each_kept_row_once(tmp_path: Path, tokenizer: Any) -> None:
    report, run = run_prepare(dialogues(60), tmp_path, tokenizer, data={"question": "Description", "answer": "Doctor"})
    seen = []
    for name, size in report.split.items():
        rows = run.read_jsonl(f"data/{name}.jsonl", "prepare")
        table = pl.read_parquet(run.folder / "data" / f"{name}.parquet")
        texts = run.read_jsonl(f"data/{name}.text.jsonl", "prepare")
        assert len(rows) == table.height == len(texts) == size
        assert [row["answer"] for row in rows] == table["answer"].to_list()
        assert all(row["question"] in text["text"] for row, text in zip(rows, texts, strict=True))
        seen += [row["row"] for row in rows]
    assert sorted(seen) == list(range(1, 61))
    assert report.split == {"train": 51, "validation": 3, "test": 6}


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, tokenizer: Any) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _, run = run_prepare(
            dialogues(40), tmp_path / name, tokenizer, data={"question": "Description", "answer": "Doctor", "rows": 30}
        )
        found.append([(run.folder / "data" / f"{split}.jsonl").read_bytes() for split in ("train", "test")])
    assert found[0] == found[1]


def test_rows_takes_some_at_random_or_the_first(tmp_path: Path, tokenizer: Any) -> None:
    columns = {"question": "Description", "answer": "Doctor", "rows": 20, "test": 0.0, "validation": 0.0}
    report, run = run_prepare(dialogues(60), tmp_path, tokenizer, data=columns)
    assert (report.rows_available, report.rows_in) == (60, 20)
    assert [row["row"] for row in run.read_jsonl("data/train.jsonl", "")] != list(range(1, 21))
    _, run = run_prepare(dialogues(60), tmp_path, tokenizer, data={**columns, "take": "first"})
    assert [row["row"] for row in run.read_jsonl("data/train.jsonl", "")] == list(range(1, 21))


def test_each_reason_for_dropping_is_counted_and_its_row_can_be_seen(tmp_path: Path, tokenizer: Any) -> None:
    rows = [*({"question": r["Description"], "answer": r["Doctor"]} for r in dialogues(20))]
    rows += [rows[3], {"question": "", "answer": "An answer."}, {"question": "Why?", "answer": None}]
    rows += [{"question": "How long?", "answer": "very " * 400}]
    report, run = run_prepare(rows, tmp_path, tokenizer, model={"max_length": 128})
    assert report.dropped == {"exact duplicate": 1, "empty question": 1, "empty answer": 1, "over max_length": 1}
    dropped = pl.read_parquet(run.folder / "data" / "dropped.parquet")
    assert dict(dropped.select("row", "reason").iter_rows()) == {
        21: "exact duplicate",
        22: "empty question",
        23: "empty answer",
        24: "over max_length",
    }


def test_an_unreadable_row_that_is_skipped_is_counted(tmp_path: Path, tokenizer: Any) -> None:
    source = write_jsonl(tmp_path / "torn.jsonl", [{"question": f"q {n}?", "answer": f"a {n}."} for n in range(5)])
    source.write_text(source.read_text() + "{torn\n")
    report, _ = run_prepare(
        [], tmp_path, tokenizer, data={"source": str(source), "on_error": "skip", "test": 0.2, "validation": 0}
    )
    assert report.dropped == {"unreadable": 1}
    assert report.rows_in == 6


def test_truncation_is_counted_and_a_prompt_that_fills_the_limit_is_dropped(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"question": f"q {n}?", "answer": f"a {n}."} for n in range(8)]
    rows += [{"question": "why " * 300, "answer": "so."}, {"question": "how?", "answer": "thus " * 300}]
    report, _ = run_prepare(
        rows, tmp_path, tokenizer, data={"overlong": "truncate", "test": 0.2, "validation": 0}, model={"max_length": 64}
    )
    assert report.truncated == 1
    assert report.dropped == {"prompt over max_length": 1}


def test_context_goes_before_the_answer_and_plain_text_has_no_question(tmp_path: Path, tokenizer: Any) -> None:
    none = {"test": 0.0, "validation": 0.0}
    rows = [{"instruction": "Sum up.", "input": "A long tale.", "output": "Short."}]
    _, run = run_prepare(rows, tmp_path, tokenizer, data=none)
    assert run.dialogues("train")[0].question == "Sum up.\n\nA long tale."
    _, run = run_prepare([{"text": "Whole text."}], tmp_path, tokenizer, data=none)
    assert run.dialogues("train")[0] == type(run.dialogues("train")[0])(1, "", "Whole text.")


def test_near_duplicates_are_kept_together_and_a_plain_split_would_have_leaked(tmp_path: Path, tokenizer: Any) -> None:
    tail = "rest, drink enough water, keep warm, and see a doctor when the fever comes back within a week of the start"
    rows = [
        {"question": f"Case {n} of {'abcdefghij'[n % 10] * 3}{n}?", "answer": f"{n} {n} {tail}."} for n in range(10)
    ]
    rows += [
        {"question": f"Other {n} {n * n}?", "answer": f"Wholly other words number {n * 7} stand here."}
        for n in range(10)
    ]
    report, _ = run_prepare(rows, tmp_path, tokenizer, data={"test": 0.3})
    assert report.near_duplicates == 9
    assert report.leaked == 0
    assert report.random_split_would_leak > 0


def test_the_report_in_the_folder_is_the_one_returned(tmp_path: Path, tokenizer: Any) -> None:
    report, run = run_prepare(dialogues(30), tmp_path, tokenizer, data={"question": "Description", "answer": "Doctor"})
    written = json.loads((run.folder / "data" / "report.json").read_text())
    assert written["split"] == report.split
    assert written["sample"].endswith("<|im_end|>")
    assert {step["step"]: step["rows"] for step in written["cleaned"]}["question-prefix"] == 30


NO_SPLIT = {"test": 0.0, "validation": 0.0}


def prepare_file(source: Path, folder: Path, tokenizer: Any, **changes: Any) -> tuple[DataReport, Run]:
    recipe = Recipe.parse({"name": "x", "model": changes.pop("model", {}), "data": {"source": str(source), **changes}})
    run = Run.create(folder, recipe)
    return prepare(recipe, run, Prompt.build(recipe.prompt, tokenizer)), run


cell = st.one_of(
    st.none(),
    st.sampled_from(["", " \t", "Q. ", "Q. What  helps?", "what helps?", "Rest.", "a@b.example", "020 7946 0182"]),
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.integers(1, 60).map(lambda times: "long " * times),
)


line = st.one_of(
    st.fixed_dictionaries({}, optional={"question": cell, "answer": cell}).map(json.dumps),
    st.sampled_from(["", "  ", "nope", "[1]", '{"question": ', '{"answer": "\\ud83d"}']),
)


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
@settings(deadline=None, max_examples=30)
@given(lines=st.lists(line, max_size=12))
def test_in_any_messy_file_every_row_is_kept_once_or_dropped_once(
    overlong: str, lines: list[str], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("messy")
    lines = [*lines, json.dumps({"question": "Is this row fine?", "answer": "It always is."})]
    source = folder / "rows.jsonl"
    source.write_text("\n".join(lines), "utf-8")
    report, run = prepare_file(
        source, folder / "run", tokenizer, **NO_SPLIT, on_error="skip", overlong=overlong, model={"max_length": 128}
    )
    dropped = pl.read_parquet(run.folder / "data" / "dropped.parquet")
    kept = pl.read_parquet(run.folder / "data" / "train.parquet")
    written = [number for number, text in enumerate(lines, start=1) if text.strip()]
    assert report.rows_in == len(written) == report.kept + sum(report.dropped.values())
    assert sorted(kept["row"].to_list() + dropped["row"].to_list()) == written
    assert dict(dropped["reason"].value_counts().iter_rows()) == report.dropped
    assert report.kept == kept.height == sum(report.split.values())
    shutil.rmtree(folder)


@pytest.fixture
def private_file(tmp_path: Path) -> Path:
    rows = dialogues(12)
    rows[0]["Description"] = "Q.  Is  nobody@mail.example or 07700\t900 461 the clinic?"
    rows[1]["Doctor"] = "Ring  020 7946 0182 or write to somebody@clinic.example."
    rows[2]["Doctor"] = "nobody@mail.example"
    rows[3] = rows[1] | {"Description": rows[1]["Description"].upper()}
    return write_jsonl(tmp_path / "private.jsonl", rows)


def test_personal_data_is_counted_and_stands_in_no_file_that_prepare_writes(
    private_file: Path, tmp_path: Path, tokenizer: Any
) -> None:
    report, run = prepare_file(private_file, tmp_path / "run", tokenizer, **NO_SPLIT)
    assert report.redacted == {"email": 4, "phone": 3}
    assert report.cleaned[2].rows == 3
    texts = [path.read_text("utf-8") for path in (run.folder / "data").glob("*.json*")]
    texts += [str(pl.read_parquet(path).rows()) for path in (run.folder / "data").glob("*.parquet")]
    assert len(texts) == 11
    for secret in ("nobody@", "somebody@", "7946 0182", "900 461"):
        assert not any(secret in text for text in texts)


def test_without_redaction_the_rows_stay_and_samples_show_them(
    private_file: Path, tmp_path: Path, tokenizer: Any
) -> None:
    report, run = prepare_file(private_file, tmp_path / "run", tokenizer, **NO_SPLIT, redact=False)
    assert report.redacted == {}
    assert "nobody@mail.example" in run.dialogues("train")[0].question
    assert report.cleaned[2].samples[0][0] == 1


@pytest.mark.parametrize("take", ["random", "first"])
def test_a_seed_writes_the_same_files_again_and_another_seed_another_split(
    take: str, data_file: Path, tmp_path: Path, tokenizer: Any
) -> None:
    def files(folder: str, seed: int) -> dict[str, bytes]:
        _, run = prepare_file(data_file, tmp_path / folder, tokenizer, rows=40, take=take, seed=seed)
        return {path.name: path.read_bytes() for path in (run.folder / "data").iterdir()}

    one, again, other = files("one", 3), files("again", 3), files("other", 4)
    assert one == again
    assert len(one) == 11
    assert one["test.jsonl"] != other["test.jsonl"]


def test_a_wrong_column_is_refused_with_the_columns_there_are(data_file: Path, tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match='one of Description, Patient, Doctor; did you mean "Doctor"'):
        prepare_file(data_file, tmp_path / "run", tokenizer, question="Description", answer="Docter")


def test_a_source_whose_rows_all_leave_is_refused_with_the_reasons(tmp_path: Path, tokenizer: Any) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [{"question": "", "answer": "x"}, {"question": "y", "answer": " "}])
    with pytest.raises(UserError, match=r"no row is left .*1 empty question.*1 empty answer"):
        prepare_file(source, tmp_path / "run", tokenizer)


def test_lengths_are_those_of_the_examples_that_are_trained_on(data_file: Path, tmp_path: Path, tokenizer: Any) -> None:
    report, run = prepare_file(data_file, tmp_path / "run", tokenizer, **NO_SPLIT)
    prompt = Prompt.build(run.recipe.prompt, tokenizer)
    examples = [prompt.example(d.question, d.answer) for d in run.dialogues("train")]
    rows = pl.read_parquet(run.folder / "data" / "train.parquet")
    assert rows["prompt_tokens"].to_list() == [example.learn_from for example in examples]
    assert (rows["prompt_tokens"] + rows["answer_tokens"]).to_list() == [len(example) for example in examples]
    assert report.tokens["prompt"]["total"] + report.tokens["answer"]["total"] == sum(map(len, examples))
    assert sum(report.lengths["counts"]) == 60


def conversations(count: int) -> list[dict[str, Any]]:
    """Two questions and answers each, the second one short and the same in all of them."""
    return [
        {
            "messages": [
                {"role": "system", "content": f"You are doctor {n}."},
                {"role": "user", "content": f"Q. What of  case {n} at {n * n}?"},
                {"role": "assistant", "content": f"Case {n} asks for rest of {n} days and much water."},
                {"role": "user", "content": "And at night?"},
                {
                    "role": "assistant",
                    "content": f"At night case {n} needs sleep for {n * 7} hours, no more and no less.",
                },
            ]
        }
        for n in range(count)
    ]


def test_each_assistant_turn_is_an_answer_with_what_was_said_before(tmp_path: Path, tokenizer: Any) -> None:
    report, run = run_prepare(
        conversations(20), tmp_path, tokenizer, data={"clean": ["white-space", "question-prefix"]}
    )
    assert report.rows_in == report.kept == 40
    first, second = run.dialogues("train")[:2]
    assert (first.turn, first.question, first.history) == (0, first.question, ())
    assert second.turn == 1
    assert second.history == ((first.question, first.answer),)  # cleaned as it is where it is learnt
    assert first.question.startswith("What of case")
    assert second.system == first.system
    assert report.sample.startswith("<|im_start|>system\nYou are doctor")


def test_a_conversation_goes_to_one_split_as_a_whole(tmp_path: Path, tokenizer: Any) -> None:
    _, run = run_prepare(conversations(30), tmp_path, tokenizer, data={"test": 0.2, "validation": 0.1})
    rows = {name: {d.row for d in run.dialogues(name)} for name in ("train", "validation", "test")}
    assert not rows["train"] & rows["test"]
    assert not rows["train"] & rows["validation"]
    assert len(rows["test"]) > 1  # the same second question did not make one case of them all


def test_a_malformed_conversation_stops_or_is_counted(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        *conversations(10),
        {"messages": [{"role": "doctor", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": "Why?"}]},
        {"messages": []},
    ]
    with pytest.raises(UserError, match='row 11: message 1: unknown role "doctor", expected one of system, user'):
        run_prepare(rows, tmp_path, tokenizer)
    report, _ = run_prepare(rows, tmp_path, tokenizer, data={"on_error": "skip"})
    assert report.dropped == {"malformed conversation": 2, "no assistant turn": 2}
    assert report.rows_in == 24


def test_sharegpt_conversations_are_read_too(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"conversations": [{"from": "human", "value": f"q {n}?"}, {"from": "gpt", "value": f"answer {n} to that."}]}
        for n in range(10)
    ]
    report, run = run_prepare(rows, tmp_path, tokenizer, data={"test": 0.2, "validation": 0})
    assert report.kept == 10
    assert report.shape == "messages: each assistant turn of conversations"
    assert run.dialogues("train")[0].question.startswith("q ")


def test_what_a_finding_names_can_be_dropped_and_is_counted(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"question": f"Why case {n}?", "answer": f"Because of {n} things, and of {n * n} more."} for n in range(20)]
    rows += [{"question": "Can I swim?", "answer": "Yes."}]
    report, _ = run_prepare(rows, tmp_path, tokenizer, data={"drop": ["short-answers"]})
    assert report.dropped == {"short-answers": 1}
    assert "short-answers" not in [finding.kind for finding in report.findings]
    report, _ = run_prepare(rows, tmp_path, tokenizer)
    assert [f.examples[0][0] for f in report.findings if f.kind == "short-answers"] == [21]


def test_a_dropped_row_can_be_found_in_its_file(tmp_path: Path, tokenizer: Any) -> None:
    for name in ("a", "b"):
        rows = [{"question": f"Why {name} {n}?", "answer": f"Because of {name} and {n}."} for n in range(9)]
        write_jsonl(tmp_path / f"{name}.jsonl", [*rows, {"question": "Why?", "answer": ""}])
    _, run = run_prepare([], tmp_path, tokenizer, data={"source": str(tmp_path / "[ab].jsonl"), "validation": 0})
    dropped = pl.read_parquet(run.folder / "data" / "dropped.parquet")
    assert dropped["position"].to_list() == [f"{tmp_path / 'a.jsonl'} line 10", f"{tmp_path / 'b.jsonl'} line 10"]


def guide(subject: str) -> str:
    """A page as people write them: a title, headings, and a paragraph under each."""
    return "\n\n".join(
        [
            f"# {subject}",
            f"## What is {subject.lower()}?",
            f"{subject} is a condition of many people, and {subject.lower()} shows first in the early years of a life.",
            "## Symptoms",
            f"The commonest signs of {subject.lower()} are tiredness, a dry mouth and a rash that comes and goes.",
        ]
    )


def test_texts_become_dialogues_that_keep_their_passage(tmp_path: Path, tokenizer: Any) -> None:
    subjects = ("Asthma", "Gout", "Measles", "Anaemia", "Eczema", "Scurvy", "Mumps", "Croup")
    rows = [{"text": guide(subject) + " Write to nurse@clinic.example for more of it."} for subject in subjects]
    report, run = run_prepare(rows, tmp_path, tokenizer, data={"synthesise": {}, "test": 0.2, "validation": 0})
    assert report.synthesised is not None
    assert report.synthesised["passages"] >= len(subjects)
    assert "What is gout?" in [d.question for name in ("train", "test") for d in run.dialogues(name)]
    train, test = (pl.read_parquet(run.folder / "data" / f"{name}.parquet") for name in ("train", "test"))
    assert all(answer[:20] in passage for answer, passage in train.select("answer", "passage").iter_rows())
    assert not set(train["passage"]) & set(test["passage"])
    assert not any("nurse@clinic.example" in passage for passage in train["passage"])


def test_dialogues_are_not_taken_for_documents(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"read as question/answer: question -> answer; expected texts"):
        run_prepare([{"question": "q?", "answer": "a."}], tmp_path, tokenizer, data={"synthesise": {}})


def test_a_data_frame_takes_the_place_of_the_source(tmp_path: Path, tokenizer: Any) -> None:
    recipe = Recipe.parse({"name": "x", "data": {"source": "mine", "test": 0.2, "validation": 0}})
    frame = pl.DataFrame([{"question": f"Why {n}?", "answer": f"Because of {n}."} for n in range(10)])
    for mine in (frame, frame.to_pandas()):
        run = Run.create(tmp_path / "run", recipe)
        assert prepare(recipe, run, Prompt.build(recipe.prompt, tokenizer), given=mine).kept == 10
